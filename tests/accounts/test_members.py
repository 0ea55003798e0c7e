"""Members: who is added, changed and removed, and that a team always keeps an admin."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone

from finetune_hub.accounts.actions import add_member, change_role, create_token, remove_member
from finetune_hub.accounts.models import ApiToken, AuditEvent, Membership, Role, Team, User
from finetune_hub.spec.refusal import Refusal
from tests.factories import make_job, make_member, make_team, make_user


@pytest.fixture
def alice(db: None) -> User:
    return make_user("alice")


@pytest.fixture
def team(alice: User) -> Team:
    return make_team(alice, role=Role.ADMIN)


def membership(team: Team, user: User) -> Membership:
    return team.memberships.select_related("team", "user").get(user=user)


def sentences(team: Team) -> list[str]:
    return [str(event) for event in AuditEvent.objects.seen_by(team)]


def test_a_new_user_gets_a_link_that_leads_once_to_setting_a_password(team: Team, alice: User) -> None:
    added, link = add_member(team, "bob", role=Role.MEMBER, actor=alice, email="bob@example.org")
    assert (added.user.email, added.role) == ("bob@example.org", Role.MEMBER)
    assert not added.user.has_usable_password()
    assert link is not None
    bob = Client()
    path = link.removeprefix("http://testserver")
    assert bob.get(path).status_code == 200
    assert bob.post(path)["Location"] == "/account/"
    words = {"new_password1": "a long phrase", "new_password2": "a long phrase"}
    assert bob.post("/account/password", words)["Location"] == "/account/"
    assert bob.get("/account/").status_code == 200  # The session outlives the change.
    assert Client().login(username="bob", password="a long phrase")
    assert Client().get(path).status_code == 410
    assert sentences(team) == ["alice added bob as member"]


def test_a_lost_link_is_renewed_by_adding_again(team: Team, alice: User) -> None:
    _, first = add_member(team, "bob", role=Role.MEMBER, actor=alice)
    _, second = add_member(team, "bob", role=Role.ADMIN, actor=alice)
    assert [Client().get(link).status_code for link in (first, second)] == [410, 200]
    assert team.memberships.get(user__username="bob").role == Role.MEMBER
    assert len(sentences(team)) == 1


@pytest.mark.parametrize(
    "who",
    [
        {"last_login": timezone.now()},
        {"is_staff": True},
        {"password": "correct horse"},
    ],
    ids=lambda who: next(iter(who)),
)
def test_nobody_gets_a_link_into_an_account_that_is_somebodys(team: Team, alice: User, who: dict[str, object]) -> None:
    User.objects.create_user("bob", **who)  # type: ignore[arg-type]
    assert add_member(team, "bob", role=Role.VIEWER, actor=alice)[1] is None


def test_nor_into_one_that_another_team_has_invited(team: Team, alice: User) -> None:
    elsewhere = make_user()
    theirs = make_team(elsewhere, role=Role.ADMIN)
    invited, link = add_member(theirs, "bob", role=Role.MEMBER, actor=elsewhere)
    with pytest.raises(Refusal) as refused:
        add_member(team, "bob", role=Role.VIEWER, actor=alice)
    assert refused.value.code == "invited_elsewhere"
    remove_member(membership(theirs, invited.user), actor=elsewhere)
    assert add_member(team, "bob", role=Role.VIEWER, actor=alice)[1]
    assert Client().get(link).status_code == 410  # The other admin may have kept it.


@pytest.mark.parametrize(
    ("username", "email", "code"),
    [
        ("alice", "", "already_member"),
        ("", "", "invalid_username"),
        ("a b", "", "invalid_username"),
        ("../x", "", "invalid_username"),
        ("..", "", "invalid_username"),
        ("x" * 151, "", "invalid_username"),
        ("bob", "bob at home", "invalid_email"),
    ],
)
def test_what_cannot_be_added_is_refused(team: Team, alice: User, username: str, email: str, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        add_member(team, username, role=Role.VIEWER, actor=alice, email=email)
    assert refused.value.code == code
    assert team.memberships.count() == User.objects.count() == 1


def test_a_removed_members_tokens_stop_and_jobs_stay(team: Team, alice: User) -> None:
    bob = make_member(team)
    elsewhere = make_team(bob)
    job = make_job(team, created_by=bob)
    here, _ = create_token(bob, team, name="here")
    there, _ = create_token(bob, elsewhere, name="there")
    remove_member(membership(team, bob), actor=alice)
    assert list(ApiToken.objects.usable()) == [there]
    add_member(team, bob.username, role=Role.MEMBER, actor=alice)
    assert here not in ApiToken.objects.usable()  # Coming back revives nothing.
    job.refresh_from_db()
    assert job.created_by == bob


@pytest.mark.parametrize("colleague", [Role.VIEWER, Role.MEMBER])
def test_the_last_admin_stays_one(team: Team, alice: User, colleague: Role) -> None:
    make_member(team, colleague)
    make_team(make_user(), role=Role.ADMIN)  # Somebody else's admin does not count.
    gone = make_member(team, Role.ADMIN)
    User.objects.filter(pk=gone.pk).update(is_active=False)  # Nor does one who cannot sign in.
    for deed in (
        lambda: change_role(membership(team, alice), Role.MEMBER, actor=alice),
        lambda: remove_member(membership(team, alice), actor=alice),
    ):
        with pytest.raises(Refusal) as refused:
            deed()
        assert (refused.value.code, refused.value.kind) == ("last_admin", "conflict")
    assert membership(team, alice).role == Role.ADMIN


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("verb", ["demote", "remove"])
def test_two_admins_who_oust_each_other_at_once_leave_one(verb: str) -> None:
    alice, bob = make_user("alice"), make_user("bob")
    team = make_team(alice, bob, role=Role.ADMIN)
    barrier, refusals = threading.Barrier(2), list[str]()

    def oust(whom: User, by: User) -> None:
        theirs = membership(team, whom)
        barrier.wait()
        try:
            if verb == "demote":
                change_role(theirs, Role.VIEWER, actor=by)
            else:
                remove_member(theirs, actor=by)
        except Refusal as refusal:
            refusals.append(refusal.code)
        finally:
            connection.close()

    run_at_once(lambda: oust(bob, alice), lambda: oust(alice, bob))
    assert team.memberships.filter(role=Role.ADMIN).count() == 1
    # The loser was still an admin when its right was checked, or no longer.
    assert refusals in (["last_admin"], ["forbidden"])


def run_at_once(*deeds: Callable[[], None]) -> None:
    threads = [threading.Thread(target=deed) for deed in deeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_changes_are_recorded_and_the_record_is_never_rewritten(team: Team, alice: User) -> None:
    bob = make_member(team)
    change_role(membership(team, bob), Role.ADMIN, actor=alice)
    change_role(membership(team, bob), Role.ADMIN, actor=alice)  # Nothing changes, nothing is recorded.
    remove_member(membership(team, bob), actor=alice)
    assert sentences(team) == [
        f"alice removed {bob.username}",
        f"alice changed the role of {bob.username} from member to admin",
    ]
    for deed in (lambda: AuditEvent.objects.update(subject="nothing"), AuditEvent.objects.all().delete):
        with pytest.raises(IntegrityError), transaction.atomic():
            deed()
    assert len(sentences(team)) == 2

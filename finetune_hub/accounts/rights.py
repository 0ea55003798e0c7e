"""Who may do what: one table of rights, each with its rule and the sentence for a person who does not have it.

An action that changes something asks the table itself, before it writes, with the person who acts:

    require_right(Right.PAUSE_JOB, user, job.team)

so that page and API cannot forget it: `tests/accounts/test_rights.py` calls every action that they import. What an
outsider may not even know of is looked up by team, and answered with 404, before it comes here. The same rows decide
which buttons a page shows (`{% may %}`), and what is refused before a form or a large file is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from finetune_hub.accounts.models import SUBMITTING_ROLES, Membership, Role, Scope, Team, User
from finetune_hub.spec.refusal import Refusal

Owner = Team | User | None
"""What a right is about: something of a team, of a person, or of the hub, which is None."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a person is at this moment: their role in each of their teams, and whether they run the hub."""

    user: User
    roles: Mapping[int, str]  # By the primary key of the team.

    @classmethod
    def of(cls, user: User) -> Standing:
        return cls(user, dict(user.memberships.values_list("team_id", "role")))

    def may(self, right: Right, owner: Owner = None) -> bool:
        """Whether they have the right over what is the owner's."""
        about = "team" if isinstance(owner, Team) else "person" if isinstance(owner, User) else "hub"
        assert about == right.rule.about, f"{right.name} is about something of a {right.rule.about}, not of a {about}"
        return right.rule.holds(self, owner)

    def may_in_a_team(self, right: Right) -> bool:
        """Whether there is a team in which they have it: whether a page offers it at all."""
        return any(self.may(right, Team(pk=pk)) for pk in self.roles)


@dataclass(frozen=True, slots=True)
class Rule:
    """Who has a right."""

    who: str
    """Them in a sentence: `Only … pauses its jobs.`"""
    remedy: str
    """What a person who is none of them does."""
    about: Literal["team", "person", "hub"]
    scope: Scope
    """What an API token needs as well."""
    holds: Callable[[Standing, Owner], bool]


def _role(standing: Standing, owner: Owner) -> str | None:
    return standing.roles.get(owner.pk) if owner else None


MEMBERS = Rule(
    "a member or an admin of the team",
    "Ask an admin of the team to make you a member of it.",
    "team",
    Scope.WRITE,
    lambda standing, owner: _role(standing, owner) in SUBMITTING_ROLES,
)
ADMINS = Rule(
    "an admin of the team",
    "Ask one of them.",
    "team",
    Scope.ADMIN,
    lambda standing, owner: _role(standing, owner) == Role.ADMIN,
)
INSIDERS = Rule(
    "somebody who is in the team",
    "Ask an admin of the team to add you to it.",
    "team",
    Scope.WRITE,
    lambda standing, owner: _role(standing, owner) is not None,
)
ONESELF = Rule(
    "the person themself",
    "Ask them.",
    "person",
    Scope.WRITE,
    lambda standing, owner: owner is not None and owner.pk == standing.user.pk,
)
# All teams share the workers, so an admin of any team manages them; staff do too (docs/adr/0004).
ADMINS_OF_ANY_TEAM = Rule(
    "an admin of a team",
    "Ask one of them.",
    "hub",
    Scope.ADMIN,
    lambda standing, _: standing.user.is_staff or Role.ADMIN in standing.roles.values(),
)
STAFF = Rule(
    "the hub's staff",
    "Ask whoever runs the hub.",
    "hub",
    Scope.ADMIN,
    lambda standing, _: standing.user.is_staff,
)


class Right(Enum):
    """Each: its rule, the deed in a sentence, and where it is not the rule's the remedy and the token's scope."""

    SUBMIT_JOB = MEMBERS, "submits its jobs"
    SUBMIT_EVALUATION = MEMBERS, "submits its evaluations"
    PLAN_JOB = MEMBERS, "plans its jobs"
    IMPORT_RECIPE = MEMBERS, "imports recipes for it"
    PAUSE_JOB = MEMBERS, "pauses its jobs"
    RESUME_JOB = MEMBERS, "resumes its jobs"
    CANCEL_JOB = MEMBERS, "cancels its jobs"
    RETRY_JOB = MEMBERS, "retries its jobs"
    CHANGE_PRIORITY = MEMBERS, "gives its jobs another priority"
    # A priority above 0 takes places from others, and may take their devices (docs/adr/0006), as preempting does.
    RAISE_PRIORITY = (
        ADMINS,
        "gives a job a priority above 0",
        "Ask one of them, or lower what may wait: everybody may go below 0.",
        Scope.WRITE,
    )
    PREEMPT_JOB = ADMINS, "preempts its jobs", "Ask one of them, or pause the job.", Scope.WRITE

    UPLOAD_FILE = MEMBERS, "uploads files for it"
    ADD_DATASET = MEMBERS, "adds to its datasets"
    IMPORT_DATASET = MEMBERS, "fetches datasets for it"
    SPLIT_DATASET = MEMBERS, "splits its datasets"
    DELETE_DATASET = MEMBERS, "deletes its datasets"
    IMPORT_BASE_MODEL = MEMBERS, "imports base models for it"
    SET_CHAT_TEMPLATE = MEMBERS, "gives its base models a chat template"
    SET_ALIAS = MEMBERS, "sets aliases of its base models"
    REMOVE_ALIAS = MEMBERS, "removes aliases of its base models"

    ADD_MEMBER = ADMINS, "adds members to it"
    CHANGE_ROLE = ADMINS, "changes its members' roles"
    REMOVE_MEMBER = ADMINS, "removes its members"
    SET_HUGGINGFACE_TOKEN = ADMINS, "sets its Hugging Face token"
    REMOVE_HUGGINGFACE_TOKEN = ADMINS, "removes its Hugging Face token"
    CONNECT_CHAT = ADMINS, "connects its chat room"
    DISCONNECT_CHAT = ADMINS, "disconnects its chat room"

    CREATE_TOKEN = INSIDERS, "makes tokens for it"
    REVOKE_TOKEN = ONESELF, "revokes their tokens"
    SET_PASSWORD = ONESELF, "sets their password"
    WISH_FOR_EMAIL = ONESELF, "says which e-mails they want"

    DRAIN_WORKER = ADMINS_OF_ANY_TEAM, "drains workers"
    RESUME_WORKER = ADMINS_OF_ANY_TEAM, "resumes workers"
    REMOVE_WORKER = ADMINS_OF_ANY_TEAM, "removes workers"
    SHARE_DEVICE = ADMINS_OF_ANY_TEAM, "says which devices jobs may share"
    RELEASE_DEVICE = ADMINS_OF_ANY_TEAM, "releases devices"
    READ_METRICS = ADMINS_OF_ANY_TEAM, "reads the metrics", "Ask one for a token.", Scope.METRICS

    # Whoever invites learns the hub's addresses, and the jobs of all teams come to the machine.
    INVITE_WORKER = STAFF, "invite workers"
    REVOKE_WORKER = STAFF, "cut workers off"
    # An admin of one team would be judge in their own cause.
    SET_QUOTA = STAFF, "say what a team may have"
    # It names teams to each other.
    SEE_ALL_USAGE = STAFF, "see what every team used", "Look at what your own team used."

    def __init__(self, rule: Rule, deed: str, remedy: str = "", scope: Scope | None = None) -> None:
        self.rule = rule
        self.sentence = f"Only {rule.who} {deed}."
        self.remedy = remedy or rule.remedy
        self.scope = scope or rule.scope

    def refusal(self, *, code: str = "forbidden", field: str | None = None) -> Refusal:
        """What a person without the right is told."""
        return Refusal(code, self.sentence, self.remedy, field=field, kind="forbidden")


def may(right: Right, user: User, owner: Owner = None) -> bool:
    """Whether the person has the right, by what they are at this moment."""
    return Standing.of(user).may(right, owner)


def require_right(right: Right, user: User, owner: Owner = None) -> None:
    """
    Args:
        user: who acts.
        owner: whose it is that the act changes; None: the hub's.

    Raises:
        Refusal: `forbidden`, `insufficient_scope`.
    """
    if not may(right, user, owner):
        raise right.refusal()
    require_scope(right.scope, user)


def require_scope(scope: Scope, user: User) -> None:
    """A person who is here by a token does no more than that is for.

    Raises:
        Refusal: `insufficient_scope`; `forbidden` where no token of theirs could have the scope.
    """
    token = user.acting_with
    if token is None or scope in token.scopes:
        return
    if scope not in Membership.objects.select_related("user").get(user=user, team=token.team_id).grantable_scopes():
        raise Refusal(
            "forbidden",
            f"Your role in the team allows no token with the scope `{scope}`.",
            "Ask an admin of the team for another role.",
            kind="forbidden",
        )
    raise Refusal(
        "insufficient_scope",
        f"The token lacks the scope `{scope}`; it has {', '.join(token.scopes)}.",
        f"Make a token with `{scope}` on your account's page, and use that one.",
        kind="forbidden",
    )


def teams_where(user: User, right: Right) -> list[Team]:
    """The teams in which the person has the right, oldest first."""
    standing = Standing.of(user)
    return [team for team in Team.objects.of(user).order_by("pk") if standing.may(right, team)]

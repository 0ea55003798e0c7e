"""Permissions: one table of rights, each with its rule and the message for a user who does not have it.

Every action that changes something checks the table itself before it writes, with the acting user:

    require_right(Right.PAUSE_JOB, user, job.team)

so that pages and API cannot forget it: `tests/accounts/test_rights.py` calls every action that they import. Rows that
an outsider must not know of are looked up by team first, which gives 404. The same table decides which buttons a page
shows (`{% may %}`) and what is refused before a form or a large file is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from finetune_hub.accounts.models import SUBMITTING_ROLES, Membership, Role, Scope, Team, User
from finetune_hub.spec.refusal import Refusal

Owner = Team | User | None
"""The owner of what a right covers: a team, a user, or the hub (None)."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A user's current standing: their role in each of their teams, and whether they are staff."""

    user: User
    roles: Mapping[int, str]  # Team primary key → role.

    @classmethod
    def of(cls, user: User) -> Standing:
        return cls(user, dict(user.memberships.values_list("team_id", "role")))

    def may(self, right: Right, owner: Owner = None) -> bool:
        """Return whether the user has the right over the owner's things."""
        about = "team" if isinstance(owner, Team) else "person" if isinstance(owner, User) else "hub"
        assert about == right.rule.about, f"{right.name} needs a {right.rule.about}, not a {about}"
        return right.rule.holds(self, owner)

    def may_in_a_team(self, right: Right) -> bool:
        """Return whether the user has the right in any team, so that a page offers it."""
        return any(self.may(right, Team(pk=pk)) for pk in self.roles)


@dataclass(frozen=True, slots=True)
class Rule:
    """Who has a right."""

    who: str
    """Who has the right, in a sentence: `Only … can pause its jobs.`"""
    remedy: str
    """What a user without the right can do."""
    about: Literal["team", "person", "hub"]
    scope: Scope
    """The scope that an API token also needs."""
    holds: Callable[[Standing, Owner], bool]


def _role(standing: Standing, owner: Owner) -> str | None:
    return standing.roles.get(owner.pk) if owner else None


MEMBERS = Rule(
    "members and admins of the team",
    "Ask an admin of the team to make you a member.",
    "team",
    Scope.WRITE,
    lambda standing, owner: _role(standing, owner) in SUBMITTING_ROLES,
)
ADMINS = Rule(
    "admins of the team",
    "Ask one of them.",
    "team",
    Scope.ADMIN,
    lambda standing, owner: _role(standing, owner) == Role.ADMIN,
)
ADMINS_AND_STAFF = Rule(
    "admins of the team and the hub's staff",
    "Ask an admin of the team.",
    "team",
    Scope.ADMIN,
    lambda standing, owner: standing.user.is_staff or _role(standing, owner) == Role.ADMIN,
)
INSIDERS = Rule(
    "people in the team",
    "Ask an admin of the team to add you.",
    "team",
    Scope.WRITE,
    lambda standing, owner: _role(standing, owner) is not None,
)
ONESELF = Rule(
    "the user themselves",
    "Ask that user.",
    "person",
    Scope.WRITE,
    lambda standing, owner: owner is not None and owner.pk == standing.user.pk,
)
# All teams share the workers, so an admin of any team manages them; staff do too (docs/adr/0004).
ADMINS_OF_ANY_TEAM = Rule(
    "team admins",
    "Ask one of them.",
    "hub",
    Scope.ADMIN,
    lambda standing, _: standing.user.is_staff or Role.ADMIN in standing.roles.values(),
)
STAFF = Rule(
    "the hub's staff",
    "Ask the people who run the hub.",
    "hub",
    Scope.ADMIN,
    lambda standing, _: standing.user.is_staff,
)


class Right(Enum):
    """All rights: the rule, the action in words, and a remedy and token scope if they differ from the rule's."""

    SUBMIT_JOB = MEMBERS, "submit its jobs"
    SUBMIT_EVALUATION = MEMBERS, "submit its evaluations"
    PLAN_JOB = MEMBERS, "plan its jobs"
    IMPORT_RECIPE = MEMBERS, "import recipes for it"
    PAUSE_JOB = MEMBERS, "pause its jobs"
    RESUME_JOB = MEMBERS, "resume its jobs"
    CANCEL_JOB = MEMBERS, "cancel its jobs"
    RETRY_JOB = MEMBERS, "retry its jobs"
    CHANGE_PRIORITY = MEMBERS, "change its jobs' priority"
    # A priority above 0 overtakes other jobs and may take their devices (docs/adr/0006), as preempting does.
    RAISE_PRIORITY = (
        ADMINS,
        "give a job a priority above 0",
        "Ask one of them, or lower the priority of jobs that can wait: everyone may go below 0.",
        Scope.WRITE,
    )
    PREEMPT_JOB = ADMINS, "preempt its jobs", "Ask one of them, or pause the job.", Scope.WRITE

    UPLOAD_FILE = MEMBERS, "upload files for it"
    ADD_DATASET = MEMBERS, "add to its datasets"
    IMPORT_DATASET = MEMBERS, "import datasets for it"
    SPLIT_DATASET = MEMBERS, "split its datasets"
    DELETE_DATASET = MEMBERS, "delete its datasets"
    DELETE_ADAPTER = MEMBERS, "delete its adapters"
    DELETE_BASE_MODEL = MEMBERS, "delete its base models"
    DELETE_JOB = MEMBERS, "delete its jobs"
    RESTORE_DELETED = MEMBERS, "restore what was deleted"
    IMPORT_BASE_MODEL = MEMBERS, "import base models for it"
    SET_CHAT_TEMPLATE = MEMBERS, "set its base models' chat templates"
    SET_ALIAS = MEMBERS, "set aliases of its base models"
    REMOVE_ALIAS = MEMBERS, "remove aliases of its base models"

    ADD_MEMBER = ADMINS, "add members to it"
    CHANGE_ROLE = ADMINS, "change its members' roles"
    REMOVE_MEMBER = ADMINS, "remove its members"
    SET_HUGGINGFACE_TOKEN = ADMINS, "set its Hugging Face token"
    REMOVE_HUGGINGFACE_TOKEN = ADMINS, "remove its Hugging Face token"
    CONNECT_CHAT = ADMINS, "connect its chat room"
    DISCONNECT_CHAT = ADMINS, "disconnect its chat room"

    CREATE_TOKEN = INSIDERS, "create tokens for it"
    REVOKE_TOKEN = ONESELF, "revoke their tokens"
    SET_PASSWORD = ONESELF, "set their password"
    WISH_FOR_EMAIL = ONESELF, "choose their e-mails"

    DRAIN_WORKER = ADMINS_OF_ANY_TEAM, "drain workers"
    RESUME_WORKER = ADMINS_OF_ANY_TEAM, "resume workers"
    REMOVE_WORKER = ADMINS_OF_ANY_TEAM, "remove workers"
    SHARE_DEVICE = ADMINS_OF_ANY_TEAM, "choose which devices jobs may share"
    RELEASE_DEVICE = ADMINS_OF_ANY_TEAM, "release devices"
    READ_METRICS = ADMINS_AND_STAFF, "read its metrics", "Ask one of them for a token.", Scope.METRICS

    # An invitation shows the hub's addresses, and the machine gets jobs of all teams.
    INVITE_WORKER = STAFF, "invite workers"
    REVOKE_WORKER = STAFF, "revoke workers"
    # A team's admins must not set their own team's quota.
    SET_QUOTA = STAFF, "set quotas"
    # It shows teams to each other.
    SEE_ALL_USAGE = STAFF, "see the usage of all teams", "See your own team's usage."
    READ_ALL_METRICS = STAFF, "read the metrics of all teams", "Read those of your own team.", Scope.METRICS

    def __init__(self, rule: Rule, deed: str, remedy: str = "", scope: Scope | None = None) -> None:
        self.rule = rule
        self.sentence = f"Only {rule.who} can {deed}."
        self.remedy = remedy or rule.remedy
        self.scope = scope or rule.scope

    def refusal(self, *, code: str = "forbidden", field: str | None = None) -> Refusal:
        """Return the refusal for a user without the right."""
        return Refusal(code, self.sentence, self.remedy, field=field, kind="forbidden")


def may(right: Right, user: User, owner: Owner = None) -> bool:
    """Return whether the user currently has the right."""
    return Standing.of(user).may(right, owner)


def require_right(right: Right, user: User, owner: Owner = None) -> None:
    """Check that the user has the right, and their token its scope.

    Args:
        user: the acting user.
        owner: the owner of what is changed; None: the hub.

    Raises:
        Refusal: `forbidden`, `insufficient_scope`.
    """
    if not may(right, user, owner):
        raise right.refusal()
    require_scope(right.scope, user)


def require_scope(scope: Scope, user: User) -> None:
    """Check that the user's token, if they use one, has the scope.

    Raises:
        Refusal: `insufficient_scope`; `forbidden` if no token of the user can have the scope.
    """
    token = user.acting_with
    if token is None or scope in token.scopes:
        return
    if scope not in Membership.objects.select_related("user").get(user=user, team=token.team_id).grantable_scopes():
        raise Refusal(
            "forbidden",
            f"Your role in the team does not allow tokens with the scope `{scope}`.",
            "Ask an admin of the team for another role.",
            kind="forbidden",
        )
    raise Refusal(
        "insufficient_scope",
        f"The token does not have the scope `{scope}`, only {', '.join(token.scopes)}.",
        f"Create a token with `{scope}` on your account page and use it.",
        kind="forbidden",
    )


def teams_where(user: User, right: Right) -> list[Team]:
    """Return the teams in which the user has the right, oldest first."""
    standing = Standing.of(user)
    return [team for team in Team.objects.of(user).order_by("pk") if standing.may(right, team)]

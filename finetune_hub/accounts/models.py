"""Who may do what: users, teams, memberships with a role, API tokens with scopes, and a record of who changed what."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from functools import partial

from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from finetune_hub.spec.ids import new_id


class User(AbstractUser):
    """A person. What they may do hangs on their memberships: see `rights`."""

    acting_with: ApiToken | None = None
    """The token that they are here by, which limits what they may do; None: they signed in, or are at a shell."""

    def awaits_first_sign_in(self) -> bool:
        """Invited and never here: nothing is theirs yet, so the admin who invites them may hold their login link."""
        return self.last_login is None and not self.has_usable_password() and not self.is_staff


class TeamQuerySet(models.QuerySet["Team"]):
    def of(self, user: User) -> TeamQuerySet:
        return self.filter(memberships__user=user)


class Team(models.Model):
    """The owner of datasets, base models, jobs and adapters. An outsider does not see that they exist."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    created_at = models.DateTimeField(db_default=Now())

    objects = TeamQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class Role(models.TextChoices):
    VIEWER = "viewer", "Viewer: looks"
    MEMBER = "member", "Member: submits"
    ADMIN = "admin", "Admin: manages members and workers"


SUBMITTING_ROLES = [Role.MEMBER, Role.ADMIN]


class Scope(models.TextChoices):
    """What a token may be used for, within what its user may do at that time."""

    READ = "read", "read: look at everything of the team"
    WRITE = "write", "write: submit, upload, cancel, make tokens"
    ADMIN = "admin", "admin: manage members and workers"
    METRICS = "metrics", "metrics: let Prometheus read /metrics"


class Membership(models.Model):
    team = models.ForeignKey(Team, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role)
    joined_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["team", "user"], name="one_membership_per_team"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.team} as {self.role}"

    def grantable_scopes(self) -> list[Scope]:
        """The scopes that a token of this user may have in this team."""
        scopes = [Scope.READ]
        if self.role in SUBMITTING_ROLES:
            scopes.append(Scope.WRITE)
        if self.role == Role.ADMIN or self.user.is_staff:
            scopes += [Scope.ADMIN, Scope.METRICS]
        return scopes


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    def of(self, user: User) -> ApiTokenQuerySet:
        """The user's tokens for a list: those not revoked, newest first, expired ones among them."""
        return self.filter(user=user, revoked_at=None).select_related("team").order_by("-created_at", "-pk")

    def usable(self) -> ApiTokenQuerySet:
        return self.filter(
            models.Q(expires_at=None) | models.Q(expires_at__gt=Now()), revoked_at=None, user__is_active=True
        )

    def matching(self, secret: str) -> ApiToken | None:
        """The usable token with this secret, its user and team fetched along."""
        return self.usable().select_related("user", "team").filter(secret_sha256=sha256_of_secret(secret)).first()


class ApiToken(models.Model):
    """A key for the API, bound to one user, one team and some scopes. Only the hash of its secret is stored."""

    id = models.CharField(primary_key=True, max_length=40, default=partial(new_id, "tok"))
    user = models.ForeignKey(User, models.CASCADE, related_name="api_tokens")
    team = models.ForeignKey(Team, models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    scopes = ArrayField(models.CharField(max_length=10))
    secret_sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(scopes__contained_by=Scope.values, scopes__len__gt=0), name="token_scopes_known"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    def record_use(self) -> None:
        """Note the day's use; at most one write a minute, so that a busy client costs nothing."""
        stale = models.Q(last_used_at=None) | models.Q(last_used_at__lt=timezone.now() - timedelta(minutes=1))
        ApiToken.objects.filter(stale, pk=self.pk).update(last_used_at=Now())


class HuggingFaceToken(models.Model):
    """A team's Hugging Face token, sealed: see `sealing`."""

    team = models.OneToOneField(Team, models.CASCADE, primary_key=True, related_name="huggingface_token")
    sealed = models.TextField()
    set_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    set_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "accounts_hubtoken"  # Its first name, which workers of an older release and their roles know.

    def __str__(self) -> str:
        return f"Hugging Face token of {self.team}"


class Verb(models.TextChoices):
    """What was done, so that "alice <label> <subject>" is a sentence. The table takes any: a new one is a line here."""

    MEMBER_ADDED = "member_added", "added"
    ROLE_CHANGED = "role_changed", "changed the role of"
    MEMBER_REMOVED = "member_removed", "removed"
    TOKEN_CREATED = "token_created", "created the token"
    TOKEN_REVOKED = "token_revoked", "revoked the token"
    WORKER_DRAINED = "worker_drained", "drained"
    WORKER_RESUMED = "worker_resumed", "resumed"
    DEVICE_SHARED = "device_shared", "let small jobs share"
    DEVICE_UNSHARED = "device_unshared", "let jobs no longer share"
    QUOTA_CHANGED = "quota_changed", "changed the quota to"
    # These two are kept in the database by their first names: rows of the log are never changed.
    HUGGINGFACE_TOKEN_SET = "hub_token_set", "set"
    HUGGINGFACE_TOKEN_REMOVED = "hub_token_removed", "removed"
    WORKER_INVITED = "worker_invited", "invited the worker"
    WORKER_REVOKED = "worker_revoked", "cut off the worker"
    WORKER_REMOVED = "worker_removed", "removed the worker"
    DEVICE_RELEASED = "device_released", "released the device"
    CHAT_CONNECTED = "chat_connected", "connected the chat room at"
    CHAT_DISCONNECTED = "chat_disconnected", "disconnected the chat room at"


class AuditEventQuerySet(models.QuerySet["AuditEvent"]):
    def seen_by(self, team: Team) -> AuditEventQuerySet:
        """What happened in the team and to the workers, newest first.

        Adds `actor_is_known`: whoever drained a worker may be of another team, which has no names here.
        """
        members = Membership.objects.filter(team=team, user=models.OuterRef("actor"))
        return (
            self.filter(models.Q(team=team) | models.Q(team=None))
            .annotate(actor_is_known=models.Q(team=team) | models.Exists(members))
            .select_related("actor")
            .order_by("-pk")
        )


class AuditEvent(models.Model):
    """Who changed what and when. Rows are only ever added: a trigger refuses the rest."""

    team = models.ForeignKey(Team, models.PROTECT, null=True, related_name="audit_events", help_text="None: the fleet.")
    actor = models.ForeignKey(User, models.PROTECT, related_name="audit_events")
    verb = models.CharField(max_length=50)
    subject = models.CharField(max_length=300)
    created_at = models.DateTimeField(db_default=Now())

    objects = AuditEventQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["team", "-id"], name="audit_newest_of_team")]

    def __str__(self) -> str:
        return f"{self.actor} {self.deed} {self.subject}"

    @property
    def deed(self) -> str:
        """The verb in a sentence; one that only another release knows, by its name."""
        return Verb(self.verb).label if self.verb in Verb.values else self.verb.replace("_", " ")


def new_token_secret() -> str:
    return "fth_" + secrets.token_urlsafe(32)


def sha256_of_secret(secret: str) -> str:
    """High-entropy secrets need no slow hash: there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()

"""Users, teams, memberships with roles, API tokens with scopes, and the audit log."""

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
    """A person. Their rights depend on their memberships: see `rights`."""

    acting_with: ApiToken | None = None
    """The token of the current request, which limits the rights; None: signed in or at a shell."""

    def awaits_first_sign_in(self) -> bool:
        """Return whether the user never signed in. They own nothing yet, so an inviting admin may have their link."""
        return self.last_login is None and not self.has_usable_password() and not self.is_staff


class TeamQuerySet(models.QuerySet["Team"]):
    def of(self, user: User) -> TeamQuerySet:
        return self.filter(memberships__user=user)


class Team(models.Model):
    """The owner of datasets, base models, jobs and adapters, whose existence is hidden from outsiders."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    created_at = models.DateTimeField(db_default=Now())

    objects = TeamQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class Role(models.TextChoices):
    VIEWER = "viewer", "Viewer: can look"
    MEMBER = "member", "Member: can submit jobs"
    ADMIN = "admin", "Admin: manages members and workers"


SUBMITTING_ROLES = [Role.MEMBER, Role.ADMIN]


class Scope(models.TextChoices):
    """What a token may be used for, within its user's current rights."""

    READ = "read", "read: look at all data of the team"
    WRITE = "write", "write: submit, upload, cancel, create tokens"
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
        """Return the scopes that a token of this user may have in this team."""
        scopes = [Scope.READ]
        if self.role in SUBMITTING_ROLES:
            scopes.append(Scope.WRITE)
        if self.role == Role.ADMIN or self.user.is_staff:
            scopes += [Scope.ADMIN, Scope.METRICS]
        return scopes


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    def of(self, user: User) -> ApiTokenQuerySet:
        """Return the user's tokens that are not revoked, including expired ones, newest first."""
        return self.filter(user=user, revoked_at=None).select_related("team").order_by("-created_at", "-pk")

    def usable(self) -> ApiTokenQuerySet:
        return self.filter(
            models.Q(expires_at=None) | models.Q(expires_at__gt=Now()), revoked_at=None, user__is_active=True
        )

    def matching(self, secret: str) -> ApiToken | None:
        """Return the usable token with this secret, with its user and team."""
        return self.usable().select_related("user", "team").filter(secret_sha256=sha256_of_secret(secret)).first()


class ApiToken(models.Model):
    """An API token for one user, one team and some scopes. Only the hash of its secret is stored."""

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
        """Record the use, with at most one write per minute, so that busy clients are cheap."""
        stale = models.Q(last_used_at=None) | models.Q(last_used_at__lt=timezone.now() - timedelta(minutes=1))
        ApiToken.objects.filter(stale, pk=self.pk).update(last_used_at=Now())


class HuggingFaceToken(models.Model):
    """A team's encrypted Hugging Face token: see `sealing`."""

    team = models.OneToOneField(Team, models.CASCADE, primary_key=True, related_name="huggingface_token")
    sealed = models.TextField()
    set_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    set_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "accounts_hubtoken"  # The former name, which older workers and their database roles use.

    def __str__(self) -> str:
        return f"Hugging Face token of {self.team}"


class Verb(models.TextChoices):
    """What was done: "alice <label> <subject>" is a sentence. The column takes any text; add new verbs here."""

    MEMBER_ADDED = "member_added", "added"
    ROLE_CHANGED = "role_changed", "changed the role of"
    MEMBER_REMOVED = "member_removed", "removed"
    TOKEN_CREATED = "token_created", "created the token"
    TOKEN_REVOKED = "token_revoked", "revoked the token"
    WORKER_DRAINED = "worker_drained", "drained"
    WORKER_RESUMED = "worker_resumed", "resumed"
    DEVICE_SHARED = "device_shared", "let small jobs share"
    DEVICE_UNSHARED = "device_unshared", "stopped jobs from sharing"
    QUOTA_CHANGED = "quota_changed", "changed the quota to"
    # The database has the former names of these two, as rows of the log are never changed.
    HUGGINGFACE_TOKEN_SET = "hub_token_set", "set"
    HUGGINGFACE_TOKEN_REMOVED = "hub_token_removed", "removed"
    WORKER_INVITED = "worker_invited", "invited the worker"
    WORKER_REVOKED = "worker_revoked", "revoked the worker"
    WORKER_REMOVED = "worker_removed", "removed the worker"
    DEVICE_RELEASED = "device_released", "released the device"
    CHAT_CONNECTED = "chat_connected", "connected the chat room at"
    CHAT_DISCONNECTED = "chat_disconnected", "disconnected the chat room at"
    DELETED = "deleted", "deleted"
    RESTORED = "restored", "restored"
    # Done by the hub when the time to restore is over; the actor is whoever deleted.
    PURGED = "purged", "deleted for good (not restored in time)"


class AuditEventQuerySet(models.QuerySet["AuditEvent"]):
    def seen_by(self, team: Team) -> AuditEventQuerySet:
        """Return the events of the team and of the workers, newest first.

        Adds `actor_is_known`: an actor from another team, who drained a worker, stays anonymous.
        """
        members = Membership.objects.filter(team=team, user=models.OuterRef("actor"))
        return (
            self.filter(models.Q(team=team) | models.Q(team=None))
            .annotate(actor_is_known=models.Q(team=team) | models.Exists(members))
            .select_related("actor")
            .order_by("-pk")
        )


class AuditEvent(models.Model):
    """Who changed what and when. Append-only: a trigger refuses updates and deletes."""

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
        """The verb in a sentence; for a verb of another release, its name."""
        return Verb(self.verb).label if self.verb in Verb.values else self.verb.replace("_", " ")


def new_token_secret() -> str:
    return "fth_" + secrets.token_urlsafe(32)


def sha256_of_secret(secret: str) -> str:
    """Hash a secret. High-entropy secrets need no slow hash, as they cannot be guessed."""
    return hashlib.sha256(secret.encode()).hexdigest()

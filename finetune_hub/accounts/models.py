"""Who may do what: users, teams, memberships with a role, and API tokens."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from functools import partial

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from finetune_hub.spec.ids import new_id


class User(AbstractUser):
    """A person. Staff manage the fleet's workers; everything else hangs on memberships."""


class TeamQuerySet(models.QuerySet["Team"]):
    def of(self, user: User) -> TeamQuerySet:
        return self.filter(memberships__user=user)

    def open_to_submissions_of(self, user: User) -> TeamQuerySet:
        """The teams in which the user may submit, oldest first."""
        return self.filter(memberships__user=user, memberships__role__in=SUBMITTING_ROLES).order_by("pk")


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
    ADMIN = "admin", "Admin: manages members"


SUBMITTING_ROLES = [Role.MEMBER, Role.ADMIN]


class Membership(models.Model):
    team = models.ForeignKey(Team, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["team", "user"], name="one_membership_per_team"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.team} as {self.role}"

    @property
    def may_submit(self) -> bool:
        return self.role in SUBMITTING_ROLES


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    def usable(self) -> ApiTokenQuerySet:
        return self.filter(
            models.Q(expires_at=None) | models.Q(expires_at__gt=Now()), revoked_at=None, user__is_active=True
        )

    def matching(self, secret: str) -> ApiToken | None:
        """The usable token with this secret, its user and team fetched along."""
        return self.usable().select_related("user", "team").filter(secret_sha256=sha256_of_secret(secret)).first()


class ApiToken(models.Model):
    """A key for the API, bound to one user and one team. Only the hash of its secret is stored."""

    id = models.CharField(primary_key=True, max_length=40, default=partial(new_id, "tok"))
    user = models.ForeignKey(User, models.CASCADE, related_name="api_tokens")
    team = models.ForeignKey(Team, models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    secret_sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    objects = ApiTokenQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    def record_use(self) -> None:
        """Note the day's use; at most one write a minute, so that a busy client costs nothing."""
        stale = models.Q(last_used_at=None) | models.Q(last_used_at__lt=timezone.now() - timedelta(minutes=1))
        ApiToken.objects.filter(stale, pk=self.pk).update(last_used_at=Now())


def new_token_secret() -> str:
    return "fth_" + secrets.token_urlsafe(32)


def sha256_of_secret(secret: str) -> str:
    """High-entropy secrets need no slow hash: there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()

"""What every team-owned table shares: rows are seen by the team's members and by nobody else."""

from __future__ import annotations

from typing import Self, TypeVar

from django.contrib.auth.models import AnonymousUser
from django.db import models

from finetune_hub.accounts.models import Team, User

Row = TypeVar("Row", bound=models.Model)


class TeamOwnedQuerySet(models.QuerySet[Row]):
    def visible_to(self, user: User | AnonymousUser) -> Self:
        """The rows of the user's teams; an outsider gets none, so a page answers 404."""
        if isinstance(user, AnonymousUser):
            return self.none()
        return self.filter(team__memberships__user=user)

    def of_team(self, team: Team) -> Self:
        return self.filter(team=team)

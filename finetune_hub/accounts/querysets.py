"""Queryset shared by team-owned tables: only the team's members can see rows."""

from __future__ import annotations

from typing import Self, TypeVar

from django.contrib.auth.models import AnonymousUser
from django.db import models

from finetune_hub.accounts.models import Team, User

Row = TypeVar("Row", bound=models.Model)


class TeamOwnedQuerySet(models.QuerySet[Row]):
    def shown(self) -> Self:
        """Return the rows that pages, API and choices show: without deleted rows, where rows can be deleted."""
        return self

    def visible_to(self, user: User | AnonymousUser) -> Self:
        """Return the rows of the user's teams. Outsiders get none, so a page answers 404."""
        if isinstance(user, AnonymousUser):
            return self.none()
        return self.shown().filter(team__memberships__user=user)

    def of_team(self, team: Team) -> Self:
        return self.shown().filter(team=team)

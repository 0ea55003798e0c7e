"""Who asks, and for which team they may act: what the pages share about the signed-in user."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from finetune_hub.accounts.models import Team, User


class MemberRequest(HttpRequest):
    """A request behind `login_required`: its user is somebody."""

    user: User


def submitting_teams(user: User) -> list[Team]:
    """The teams in which the user may submit, oldest first.

    Raises:
        PermissionDenied: there is none: the user only looks.
    """
    teams = list(Team.objects.open_to_submissions_of(user))
    if not teams:
        raise PermissionDenied("A viewer may look, but not submit or change anything.")
    return teams


def may_submit_in(user: User, team_id: int) -> bool:
    return Team.objects.open_to_submissions_of(user).filter(pk=team_id).exists()


def require_submitter(user: User, team_id: int) -> None:
    """
    Raises:
        PermissionDenied: the user only looks in this team.
    """
    if not may_submit_in(user, team_id):
        raise PermissionDenied("A viewer may look, but not submit or change anything.")

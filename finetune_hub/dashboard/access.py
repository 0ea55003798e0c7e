"""Who asks, and for which team they may act: what the pages share about the signed-in user."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest

from finetune_hub.accounts.models import Membership, Team, User


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


def memberships_of(user: User) -> list[Membership]:
    """What the user is in each of their teams, oldest first."""
    return list(user.memberships.select_related("team", "user").order_by("pk"))


def administered_team(user: User, slug: str) -> Team:
    """The team, whose members the user may manage.

    Raises:
        Http404: the user is not in such a team.
        PermissionDenied: the user is no admin of it.
    """
    membership = user.memberships.select_related("team").filter(team__slug=slug).first()
    if membership is None:
        raise Http404
    if not membership.may_manage_members:
        raise PermissionDenied("Only an admin of the team manages its members.")
    return membership.team

"""Who asks, and for which team they may act: what the pages share about the signed-in user.

The rules are those of `accounts.rights`, which every action asks for itself. A page asks here before it reads a form.
"""

from __future__ import annotations

from collections.abc import Iterable

from django.http import Http404, HttpRequest

from finetune_hub.accounts.models import Membership, Team, User
from finetune_hub.accounts.rights import Right, Standing, require_right, teams_where


class MemberRequest(HttpRequest):
    """A request behind `login_required`: its user is somebody."""

    user: User


def teams_for(right: Right, user: User) -> list[Team]:
    """The teams in which the user has the right, oldest first: those that a form offers.

    Raises:
        Refusal: `forbidden`: there is none.
    """
    teams = teams_where(user, right)
    if not teams:
        raise right.refusal()
    return teams


def team_for(right: Right, user: User, slug: str) -> Team:
    """The team of this name, in which the user has the right.

    Raises:
        Http404: the user is not in such a team.
        Refusal: `forbidden`.
    """
    team = Team.objects.of(user).filter(slug=slug).first()
    if team is None:
        raise Http404
    require_right(right, user, team)
    return team


def memberships_of(user: User) -> list[Membership]:
    """What the user is in each of their teams, oldest first."""
    return list(user.memberships.select_related("team", "user").order_by("pk"))


def standing_of(user: User, memberships: Iterable[Membership]) -> Standing:
    """What `{% may %}` asks, without asking the database again."""
    return Standing(user, {membership.team_id: membership.role for membership in memberships})

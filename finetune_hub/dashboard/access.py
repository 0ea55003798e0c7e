"""The signed-in user's teams and rights, shared by all pages.

The rules are in `accounts.rights`, and every action checks them itself. Pages check here before they read a form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from django.http import Http404, HttpRequest, HttpResponseBase

from finetune_hub.accounts.models import Membership, Team, User
from finetune_hub.accounts.rights import Right, Standing, require_right, teams_where

View = TypeVar("View", bound=Callable[..., HttpResponseBase])


def reads_bodies(limit_bytes: int, right: Right) -> Callable[[View], View]:
    """Mark a view whose users with the right may send bodies up to this size; the default is 1 MiB (`body_gate`)."""

    def mark(view: View) -> View:
        for name, value in (("body_limit_bytes", limit_bytes), ("body_right", right)):
            setattr(view, name, value)
        return view

    return mark


class MemberRequest(HttpRequest):
    """A request behind `login_required`, so it has a user."""

    user: User


def teams_for(right: Right, user: User) -> list[Team]:
    """Return the teams in which the user has the right, oldest first: the choices of a form.

    Raises:
        Refusal: `forbidden`, if there is none.
    """
    teams = teams_where(user, right)
    if not teams:
        raise right.refusal()
    return teams


def team_for(right: Right, user: User, slug: str) -> Team:
    """Return the team with this slug, in which the user has the right.

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
    """Return the user's memberships, oldest first."""
    return list(user.memberships.select_related("team", "user").order_by("pk"))


def standing_of(user: User, memberships: Iterable[Membership]) -> Standing:
    """Return the user's standing for `{% may %}`, without another database query."""
    return Standing(user, {membership.team_id: membership.role for membership in memberships})

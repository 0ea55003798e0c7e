"""Template context of every page: the navigation and the user's rights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from finetune_hub.accounts.models import User
from finetune_hub.dashboard.access import memberships_of, standing_of


@dataclass(frozen=True)
class NavigationEntry:
    """A navigation entry. Its pages are under `/<url_name>/`; home is at `/`."""

    url_name: str
    label: str
    icon: str


SECTIONS = [
    NavigationEntry("home", "Home", "home"),
    NavigationEntry("jobs", "Jobs", "activity"),
    NavigationEntry("datasets", "Datasets", "rows"),
    NavigationEntry("base-models", "Base models", "cube"),
    NavigationEntry("adapters", "Adapters", "layers"),
    NavigationEntry("workers", "Workers", "chip"),
    NavigationEntry("team", "Team", "people"),
]


def site(request: HttpRequest) -> dict[str, Any]:
    """Return the context. Values are lazy, so a page that does not show them makes no query."""
    user = getattr(request, "user", None)
    memberships = SimpleLazyObject(lambda: memberships_of(user) if isinstance(user, User) else [])
    return {
        "sections": SECTIONS,
        "section": request.path.split("/")[1] or "home",
        "memberships": memberships,
        "standing": SimpleLazyObject(lambda: standing_of(user if isinstance(user, User) else User(), memberships)),
    }

"""What every page's frame shows: the navigation, and what the user may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from finetune_hub.accounts.models import User
from finetune_hub.dashboard.access import memberships_of, standing_of


@dataclass(frozen=True)
class NavigationEntry:
    """An entry of the navigation; its pages lie below `/<url_name>/`, and home itself at `/`."""

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
    """Lazy, so that a page that shows none of it asks the database nothing."""
    user = getattr(request, "user", None)
    memberships = SimpleLazyObject(lambda: memberships_of(user) if isinstance(user, User) else [])
    return {
        "sections": SECTIONS,
        "section": request.path.split("/")[1] or "home",
        "memberships": memberships,
        "standing": SimpleLazyObject(lambda: standing_of(user if isinstance(user, User) else User(), memberships)),
    }

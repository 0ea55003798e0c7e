"""Markup in any text of the database is shown as text, on every page that an admin can open."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from django.apps import apps
from django.db import DatabaseError, models, transaction

from tests.dashboard.conftest import World, make_world
from tests.dashboard.test_who_sees_what import FORMS, LISTS, OF_THE_TEAM, address
from tests.factories import make_dataset_version

pytestmark = pytest.mark.django_db

MARK = "markup-of-a-member"
HOSTILE = (
    f"'\"></script></title></textarea><script>/*{MARK}*/alert(1)</script><img src=x onerror=alert(1)>{{{{ 7*7 }}}}"
)
# These are looked up by value, are hashes or are shown nowhere: pages would be empty or missing.
KEPT = {
    "password",
    "secret_sha256",
    "slug",
    "state",
    "kind",
    "content_sha256",
    "sha256",
    "revision",
    "path",
    "lease_token",
}
CHECKED_NAMES = {"Worker", "WorkerRole"}  # Part of addresses: letters, digits, - and _ alone.


class Found(HTMLParser):
    """What would run in a browser."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []
        self.shown = 0
        self._is_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_script = tag == "script" and ("type", "application/json") not in attrs
        for name, value in attrs:
            if name.startswith("on") or (name in {"href", "src", "action"} and (value or "").startswith("javascript:")):
                self.active.append(f"{tag} {name}={value}")
        if tag == "img" and ("src", "x") in attrs:
            self.active.append("img")

    def handle_data(self, data: str) -> None:
        if MARK in data:
            self.shown += 1
            if self._is_script:
                self.active.append(data)


def make_hostile(world: World) -> int:
    """Put the markup into every text column that takes it; return how many did."""
    count = 0
    for model in apps.get_models():
        if not model.__module__.startswith("finetune_hub."):
            continue
        for field in model._meta.concrete_fields:
            if not isinstance(field, models.CharField | models.TextField) or field.primary_key or field.choices:
                continue
            if field.name in KEPT or (field.name == "name" and model.__name__ in CHECKED_NAMES):
                continue
            text = HOSTILE[: field.max_length] if field.max_length else HOSTILE
            try:
                with transaction.atomic():
                    count += bool(model._default_manager.update(**{field.name: text}))
            except DatabaseError:
                continue  # Unique, or checked by the database.
    return count


def test_markup_is_shown_as_text() -> None:
    world = make_world()
    make_dataset_version(world.team, "other", rows=[{"text": HOSTILE}])
    addresses = {name: address(world, name) for name in sorted(LISTS | FORMS | (OF_THE_TEAM - {"job-stream"}))}
    assert make_hostile(world) > 30
    shown = 0
    for name, url in addresses.items():
        response = world["owner"].get(url)
        assert response.status_code in {200, 404, 410, 503}, name
        if response.streaming:
            list(response.streaming_content)  # To its end, where the file is closed.
        elif response["Content-Type"].startswith("text/html"):
            found = Found()
            found.feed(response.content.decode())
            assert not found.active, name
            shown += found.shown
    assert shown > 30

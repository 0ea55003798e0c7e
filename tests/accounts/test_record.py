"""The record of who changed what."""

from __future__ import annotations

import pytest

from finetune_hub.accounts.models import AuditEvent
from tests.factories import make_user


@pytest.mark.django_db
def test_it_takes_a_verb_of_another_release() -> None:
    """So a new verb is a line in `Verb`, and a hub that went back a release still shows what was done."""
    event = AuditEvent.objects.create(verb="moon_painted_by_hand", subject="it", actor=make_user("alice"))
    assert str(event) == "alice moon painted by hand it"
    assert AuditEvent._meta.get_field("verb").choices is None

"""Aliases: a pipeline keeps the model names that it sends, within its team."""

from __future__ import annotations

import pytest

from finetune_hub.catalog.aliases import set_alias
from finetune_hub.catalog.choices import find_base_model
from finetune_hub.jobs.kinds.training import submit_training
from finetune_hub.spec.refusal import Refusal
from tests.factories import first_member, make_base_model, make_dataset_version, make_spec, make_team, make_user

pytestmark = pytest.mark.django_db

ALIAS = "gpt-4o-mini-2024-07-18"


def test_a_job_submitted_under_an_alias_is_over_its_model() -> None:
    team = make_team(make_user())
    model = make_base_model(team, "tiny")
    make_dataset_version(team, "tickets")
    set_alias(team, first_member(team), alias=ALIAS, base_model="tiny")
    job = submit_training(team, first_member(team), make_spec(base_model=ALIAS))
    assert job.over == model
    assert job.training_spec().base_model == "tiny"


def test_an_alias_is_the_teams_own_and_can_be_given_to_another() -> None:
    team, stranger = make_team(make_user()), make_team(make_user())
    make_base_model(team, "tiny")
    larger = make_base_model(team, "larger")
    for name in ("tiny", "larger"):
        set_alias(team, first_member(team), alias=ALIAS, base_model=name)
    assert find_base_model(team, ALIAS) == larger
    with pytest.raises(Refusal, match="no base model named"):
        find_base_model(stranger, ALIAS)
    with pytest.raises(Refusal) as refused:
        set_alias(stranger, first_member(stranger), alias=ALIAS, base_model="tiny")
    assert refused.value.code == "unknown_base_model"


@pytest.mark.parametrize(
    ("alias", "code"),
    [("", "invalid_alias"), (" x", "invalid_alias"), ("a\nb", "invalid_alias"), ("tiny", "alias_is_a_name")],
)
def test_what_cannot_be_an_alias(alias: str, code: str) -> None:
    team = make_team(make_user())
    make_base_model(team, "tiny")
    with pytest.raises(Refusal) as refused:
        set_alias(team, first_member(team), alias=alias, base_model="tiny")
    assert refused.value.code == code

"""What fits no device is refused at submit, with what would fit; what is taken says how much memory it needs."""

from __future__ import annotations

import pytest

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.models import BaseModel
from finetune_hub.fleet.models import Device
from finetune_hub.jobs.kinds.training import submit_training
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.planning import plan_training
from finetune_hub.scheduling.changes import changed
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import TrainingSpec
from tests.factories import first_member, make_base_model, make_dataset_version, make_spec, make_team, make_worker
from tests.jobs.test_planning import LLAMA_13B


@pytest.fixture
def team(db: None) -> Team:
    team = make_team()
    make_dataset_version(team)
    return team


def submit(team: Team, spec: TrainingSpec, **options: object) -> Job:
    return submit_training(team, first_member(team), spec, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ["online", "drained"])
def test_what_fits_nowhere_is_refused_with_what_would_fit(team: Team, state: str) -> None:
    make_base_model(team, facts=LLAMA_13B)
    make_worker(drain_requested=state == "drained")
    asked = make_spec(runtime={"dtype": "bfloat16"})
    with pytest.raises(Refusal) as refused:
        submit(team, asked)
    assert refused.value.code == "does_not_fit"
    assert "weights alone take 26.0 GB" in refused.value.message
    assert "`method.type: qlora`" in refused.value.remedy
    assert "`allow_unfit`" in refused.value.remedy
    assert not Job.objects.exists()
    fixed = changed(asked, refused.value.details[0]["changes"])
    needed = submit(team, fixed).memory_bytes_needed
    assert needed is not None
    assert needed <= Device.objects.get().memory_bytes


def test_it_can_be_submitted_all_the_same(team: Team) -> None:
    make_base_model(team, facts=LLAMA_13B)
    make_worker()
    job = submit(team, make_spec(runtime={"dtype": "bfloat16"}), allow_unfit=True)
    assert job.memory_bytes_needed is None


def test_without_devices_it_waits(team: Team) -> None:
    make_base_model(team, facts=LLAMA_13B)
    assert submit(team, make_spec()).memory_bytes_needed is None


def test_a_device_that_has_gone_holds_nothing(team: Team) -> None:
    make_base_model(team, facts=LLAMA_13B)
    make_worker()
    Device.objects.update(present=False)
    assert submit(team, make_spec()).memory_bytes_needed is None


def test_of_an_unknown_model_nothing_is_claimed(team: Team) -> None:
    BaseModel.objects.filter(pk=make_base_model(team).pk).update(facts={})
    make_worker()
    assert submit(team, make_spec()).memory_bytes_needed is None


def test_the_same_key_again_is_not_planned_again(team: Team) -> None:
    make_base_model(team, facts=LLAMA_13B)
    first = submit(team, make_spec(), idempotency_key="once")
    make_worker()
    assert submit(team, make_spec(), idempotency_key="once") == first


def test_weights_count_in_the_plan_as_in_training(team: Team) -> None:
    make_base_model(team)
    make_dataset_version(team, "letters")
    make_worker()
    datasets = [{"name": "tickets", "weight": 3}, {"name": "letters"}]
    alone, both = (
        plan_training(team, TrainingSpec.model_validate({"base_model": "tiny", "datasets": chosen})).devices[0].steps
        for chosen in (datasets[1:], datasets)
    )
    assert (alone, both) == (2, 8)  # 8 rows, and 3 · 8 + 8, in steps of 4.


def test_dpo_needs_pairs(team: Team) -> None:
    make_base_model(team)
    with pytest.raises(Refusal, match="kind chat") as refused:
        submit(team, make_spec(objective={"type": "dpo"}))
    assert (refused.value.code, refused.value.field) == ("not_preference_pairs", "objective.type")
    rows = [{"prompt": f"{number}?", "chosen": "yes", "rejected": "no"} for number in range(8)]
    make_dataset_version(team, "pairs", rows=rows)
    assert (
        submit(team, make_spec(dataset={"name": "pairs"}, objective={"type": "dpo"})).spec["objective"]["beta"] == 0.1
    )

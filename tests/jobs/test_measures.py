"""Measures are kept as they are declared, also those of rows that were written when each was a column of its own."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.db import connection

from finetune_hub.jobs.models import MetricPoint
from finetune_hub.spec.events import Step, engine_event
from finetune_hub.spec.measures import MEASURES
from finetune_hub.spec.objectives.registry import OBJECTIVES
from tests.factories import make_attempt, make_job, make_team, make_user

OLD_LINE = (
    '{"type": "step", "step": 1, "epoch": 0.1, "loss": 0.7, "learning_rate": 1e-4, "grad_norm": 1.0, "tokens": 9, '
    '"supervised_tokens": 4, "seconds": 0.1, "peak_memory_bytes": 1, "reward_margin": %s, "reward_accuracy": %s}'
)


def test_every_objective_measures_what_is_declared() -> None:
    assert {name for objective in OBJECTIVES.values() for name in objective.measures} == MEASURES.keys()


@pytest.mark.parametrize(
    ("values", "measures"),
    [(("0.5", "1.0"), {"reward_margin": 0.5, "reward_accuracy": 1.0}), (("null", "null"), {})],
)
def test_a_line_of_an_older_engine_is_read(values: tuple[str, str], measures: dict[str, float]) -> None:
    step = engine_event.validate_json(OLD_LINE % values)
    assert isinstance(step, Step)
    assert step.measures == measures


@pytest.mark.django_db
def test_older_rows_keep_their_measures() -> None:
    migration = import_module("finetune_hub.jobs.migrations.0010_measures")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY TABLE jobs_metricpoint "
            "(reward_margin float8, reward_accuracy float8, measures jsonb DEFAULT '{}') ON COMMIT DROP"
        )
        cursor.execute("INSERT INTO jobs_metricpoint VALUES (1.5, 0.25), (NULL, NULL), ('NaN', 1), ('-Infinity', 0)")
        cursor.execute(migration.GATHER)
        cursor.execute("SELECT measures::text FROM jobs_metricpoint")
        found = [row[0] for row in cursor.fetchall()]
        whole, alone = '{"reward_margin": 1.5, "reward_accuracy": 0.25}', '{"reward_accuracy": %d}'
        assert sorted(found) == sorted([whole, "{}", alone % 1, alone % 0])
        cursor.execute(migration.PART)
        cursor.execute("SELECT reward_margin, reward_accuracy FROM jobs_metricpoint")
        assert set(cursor.fetchall()) == {(1.5, 0.25), (None, None), (None, 1.0), (None, 0.0)}


@pytest.mark.django_db
@pytest.mark.parametrize("rewards", [(0.5, 0.75), (None, None)])
def test_a_worker_one_release_older_writes_the_old_columns(rewards: tuple[float | None, float | None]) -> None:
    attempt = make_attempt(make_job(make_team(make_user())))
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO jobs_metricpoint (attempt_id, step, epoch, loss, learning_rate, grad_norm, tokens, "
            "supervised_tokens, seconds, peak_memory_bytes, reward_margin, reward_accuracy) "
            "VALUES (%s, 1, 0, 1, 0, 0, 0, 0, 0, 0, %s, %s)",
            [attempt.pk, *rewards],
        )
    point = MetricPoint.objects.get(attempt=attempt)
    expected = {} if rewards == (None, None) else {"reward_margin": 0.5, "reward_accuracy": 0.75}
    assert point.measures == expected
    assert [measure.name for measure, _ in point.measured()] == list(expected)

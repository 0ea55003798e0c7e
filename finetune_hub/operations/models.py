"""What the hub records about itself: its regular rounds, and the releases that upgraded its database."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now


class RoundName(models.TextChoices):
    RECONCILE = "reconcile"
    PROBE = "probe"
    DELIVER = "deliver"
    TIDY = "tidy"


class RoundQuerySet(models.QuerySet["Round"]):
    def with_age(self) -> RoundQuerySet:
        """Add `age`, by the database's clock."""
        age = models.ExpressionWrapper(Now() - models.F("finished_at"), output_field=models.DurationField())
        added: dict[str, models.expressions.Combinable] = {"age": age}
        return self.annotate(**added)


class Round(models.Model):
    """The last time that control finished one of its regular rounds, and the problem that it found."""

    name = models.CharField(primary_key=True, max_length=20, choices=RoundName)
    finished_at = models.DateTimeField(db_default=Now())
    problem = models.TextField(blank=True, help_text="What is wrong and what to do; empty if all is well.")

    age: timedelta

    objects = RoundQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


def record_round(name: RoundName, problem: str = "") -> None:
    """Record that the round is done, in one statement."""
    done = Round(name=name, finished_at=Now(), problem=problem)
    fields = ["finished_at", "problem"]
    Round.objects.bulk_create([done], update_conflicts=True, unique_fields=["name"], update_fields=fields)


class Release(models.Model):
    """A release of finetune_hub that has upgraded this database; the newest comes last."""

    version = models.CharField(max_length=40)
    upgraded_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.version

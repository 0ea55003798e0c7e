"""Why something failed, as columns of jobs and attempts."""

from __future__ import annotations

from typing import Any, get_args

from django.db import models

from finetune_hub.spec.problem import Failed, FailureClass

FAILURE_CLASSES = list(get_args(FailureClass))


class MayFail(models.Model):
    """The columns of a failure; `failure` combines them."""

    failure_class = models.CharField(max_length=20, blank=True)
    failure_message = models.TextField(blank=True)
    # Workers one release older than the column do not write it.
    failure_remedy = models.TextField(blank=True, default="", db_default="")

    class Meta:
        abstract = True

    @property
    def failure(self) -> Failed | None:
        """Why it failed; None: it did not."""
        code: Any = self.failure_class
        return Failed(code, self.failure_message, self.failure_remedy) if code else None

    @staticmethod
    def failure_columns(failed: Failed | None) -> dict[str, str]:
        """Return the column values of a failure; empty strings for None."""
        names = ("failure_class", "failure_message", "failure_remedy")
        values = (failed.code, failed.message, failed.remedy) if failed else ("", "", "")
        return dict(zip(names, values, strict=True))

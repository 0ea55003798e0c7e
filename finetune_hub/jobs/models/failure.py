"""Why something failed, as columns of jobs and attempts."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, get_args

from django.db import models

from finetune_hub.machine.paths_in_text import without_paths
from finetune_hub.spec.problem import Failed, FailureClass

log = logging.getLogger(__name__)

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
        """Return the column values of a failure; empty strings for None.

        The columns are read in browsers, and name no folder of a machine. The log of this process has the whole text.
        """
        if failed:
            shown = replace(failed, message=without_paths(failed.message), remedy=without_paths(failed.remedy))
            if shown != failed:
                log.warning("the whole text of a failure: %s %s", failed.message, failed.remedy)
            failed = shown
        names = ("failure_class", "failure_message", "failure_remedy")
        values = (failed.code, failed.message, failed.remedy) if failed else ("", "", "")
        return dict(zip(names, values, strict=True))

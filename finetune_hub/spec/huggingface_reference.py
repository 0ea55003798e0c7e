"""A Hugging Face reference as one string: `owner/name`, `owner/name@revision`, `owner/name@revision:part`.

Qwen/Qwen2.5-0.5B-Instruct@main          a model at the current `main`
team/tickets@refs/convert/parquet:train  a dataset's split, or a file in it, such as `data/train.jsonl`
"""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field

from finetune_hub.spec.part import Part

_REFERENCE = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?(:(?P<part>[^:\\\0]+))?", re.ASCII
)


class HuggingFaceReference(Part):
    """A repository, or part of one, at a revision."""

    repository: str = Field(max_length=200, description="`owner/name`.")
    revision: str | None = Field(None, max_length=200, description="Branch, tag or commit; the main branch if none.")
    part: str | None = Field(None, max_length=300, description="A file, or a split of a dataset.")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse the text; None if it is not a reference."""
        match = _REFERENCE.fullmatch(text)
        if match is None or ".." in text or "//" in text or len(text) > 500:
            return None
        return cls.model_validate(match.groupdict())

    def __str__(self) -> str:
        return "".join(
            [
                self.repository,
                f"@{self.revision}" if self.revision else "",
                f":{self.part}" if self.part else "",
            ]
        )

    def at(self, commit: str) -> HuggingFaceReference:
        """Return the reference pinned to a commit."""
        return self.model_copy(update={"revision": commit})

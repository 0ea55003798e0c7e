"""Chat templates for base models that come without one: the turns of well-known families, in files of our own.

They write no turn that was not there, and a conversation's beginning as in the whole, so assistants' turns are found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class KnownTemplate:
    """A template, and the marks that a tokenizer should know as single tokens; otherwise they are written as text."""

    name: str
    summary: str
    marks: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The Jinja text."""
        return (_FOLDER / f"{self.name}.jinja").read_text(encoding="utf-8")


KNOWN_TEMPLATES = {
    template.name: template
    for template in [
        KnownTemplate("chatml", "ChatML, as Qwen, SmolLM and many others", ("<|im_start|>", "<|im_end|>")),
        KnownTemplate("llama-3", "Llama 3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
        KnownTemplate("mistral", "Mistral and Mixtral", ("[INST]", "[/INST]")),
        KnownTemplate("gemma", "Gemma", ("<start_of_turn>", "<end_of_turn>")),
        KnownTemplate("phi-3", "Phi 3", ("<|user|>", "<|assistant|>", "<|end|>")),
        KnownTemplate("zephyr", "Zephyr and TinyLlama, whose marks are plain text"),
        KnownTemplate("vicuna", "Vicuna: USER and ASSISTANT in plain text"),
        KnownTemplate("alpaca", "Alpaca: headings in plain text"),
    ]
}

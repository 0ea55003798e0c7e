"""Chat templates for base models without one, in the style of well-known families, stored in our own files.

They add no turns and render a prefix of a conversation as within the whole, so the assistant's turns can be found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class KnownTemplate:
    """A template, and the markers that should be single tokens; a tokenizer without them encodes them as text."""

    name: str
    summary: str
    marks: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The template's Jinja source."""
        return (_FOLDER / f"{self.name}.jinja").read_text(encoding="utf-8")


KNOWN_TEMPLATES = {
    template.name: template
    for template in [
        KnownTemplate("chatml", "ChatML, as in Qwen, SmolLM and many others", ("<|im_start|>", "<|im_end|>")),
        KnownTemplate("llama-3", "Llama 3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
        KnownTemplate("mistral", "Mistral and Mixtral", ("[INST]", "[/INST]")),
        KnownTemplate("gemma", "Gemma", ("<start_of_turn>", "<end_of_turn>")),
        KnownTemplate("phi-3", "Phi 3", ("<|user|>", "<|assistant|>", "<|end|>")),
        KnownTemplate("zephyr", "Zephyr and TinyLlama, with markers in plain text"),
        KnownTemplate("vicuna", "Vicuna: USER and ASSISTANT in plain text"),
        KnownTemplate("alpaca", "Alpaca: headings in plain text"),
    ]
}

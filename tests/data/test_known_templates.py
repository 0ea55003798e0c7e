"""The chat templates that we offer: each learns the answers and nothing else, through any tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.data.known_templates import KNOWN_TEMPLATES
from tests.tiny_models import make_tokenizer

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 1 more?"},
    {"role": "assistant", "content": "Then 5."},
]


def template_of(name: str, folder: Path) -> ChatTemplate:
    known = KNOWN_TEMPLATES[name]
    make_tokenizer(folder, chat_template=known.source, extra_tokens=known.marks)
    return ChatTemplate.from_folder(folder)


@pytest.mark.parametrize("name", KNOWN_TEMPLATES)
def test_only_the_answers_are_learned_each_with_its_end(name: str, tmp_path: Path) -> None:
    template = template_of(name, tmp_path)
    row = template.encode(CONVERSATION)
    learned: list[str] = []
    for start, (id_, counts) in enumerate(zip(row.input_ids, row.supervised, strict=True)):
        if counts:
            if start == 0 or not row.supervised[start - 1]:
                learned.append("")
            learned[-1] += template.token(id_).replace("Ġ", " ")
    assert [turn.strip().split(".")[0] for turn in learned] == ["It is 4", "Then 5"]
    ends = {turn.rpartition(".")[2] for turn in learned}
    assert len(ends) == 1
    assert ends <= {"<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"}


@pytest.mark.parametrize("name", KNOWN_TEMPLATES)
def test_a_prompt_is_the_beginning_of_what_is_learned(name: str, tmp_path: Path) -> None:
    template = template_of(name, tmp_path)
    prompt = template.render(CONVERSATION[:2], generation_prompt=True)
    whole = template.render(CONVERSATION[:3], generation_prompt=False)
    assert whole.startswith(prompt)
    assert "Be brief." in prompt
    assert "It is 4." in whole


@pytest.mark.parametrize("name", KNOWN_TEMPLATES)
def test_its_marks_are_what_it_writes(name: str, tmp_path: Path) -> None:
    whole = template_of(name, tmp_path).render(CONVERSATION, generation_prompt=False)
    assert all(mark in whole for mark in KNOWN_TEMPLATES[name].marks)

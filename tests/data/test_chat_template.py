"""Ids and masks are those of transformers' `apply_chat_template`, and what is supervised is what we say it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_hub.data.chat_template import ChatTemplate, InvalidChatTemplate, UnrenderableRow
from tests.tiny_models import CHATML, make_tokenizer

EXTRA_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]", "</s>")
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + '</s>' }}{% else %}{{ raise_exception('Only user and assistant!') }}"
    "{% endif %}{% endfor %}"
)
OPEN_ENDED = (
    "{% for message in messages %}{{ '### ' + message['role'] + ':\n' + message['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)


def with_generation_tags(template: str, header: str, body: str) -> str:
    """The template with the assistant's turn marked, for transformers' own mask."""
    loop, end = "{% for message in messages %}", "{% endfor %}"
    before, rest = template.split(loop)
    inner, after = rest.split(end, 1)
    marked = f"{header}{{% generation %}}{body}{{% endgeneration %}}"
    return (
        f"{before}{loop}{{% if message['role'] == 'assistant' %}}{marked}{{% else %}}{inner}{{% endif %}}{end}{after}"
    )


STYLES = {
    "chatml": (
        CHATML,
        with_generation_tags(CHATML, "<|im_start|>assistant\n", "{{ message['content'] + '<|im_end|>' }}")
        # The newline behind the end token is neither generated nor supervised.
        .replace("{% endgeneration %}", "{% endgeneration %}{{ '\n' }}"),
    ),
    "llama-3": (
        LLAMA3,
        with_generation_tags(
            LLAMA3,
            "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
            "{{ message['content'] | trim + '<|eot_id|>' }}",
        ),
    ),
    "mistral": (MISTRAL, with_generation_tags(MISTRAL, "", "{{ ' ' + message['content'] + '</s>' }}")),
}
USER = {"role": "user", "content": "Was  kostet das? "}
CONVERSATIONS = [
    [USER, {"role": "assistant", "content": "Fünf Euro. 🎉"}],
    [USER, {"role": "assistant", "content": "ab\n"}, USER, {"role": "assistant", "content": "the cat"}],
    [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": ""}, USER],
]


def template_in(folder: Path, source: str | None, **settings: Any) -> ChatTemplate:
    make_tokenizer(folder, chat_template=source, extra_tokens=EXTRA_TOKENS)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return ChatTemplate.from_folder(folder)


def supervised_text(template: ChatTemplate, messages: list[dict[str, Any]], **options: Any) -> str:
    row = template.encode(messages, **options)
    ids = [id_ for id_, counts in zip(row.input_ids, row.supervised, strict=True) if counts]
    return str(template._tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.needs_torch
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("number", range(len(CONVERSATIONS)))
@pytest.mark.parametrize("tagged", [False, True], ids=["by prefix", "by tags"])
def test_ids_and_masks_equal_transformers(tmp_path: Path, style: str, number: int, tagged: bool) -> None:
    from transformers import AutoTokenizer

    messages = CONVERSATIONS[number]
    if style == "mistral" and messages[0]["role"] == "system":
        pytest.skip("the template refuses system messages")
    plain, with_tags = STYLES[style]
    theirs = AutoTokenizer.from_pretrained(tmp_path) if template_in(tmp_path, with_tags) else None
    expected = theirs.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    assert sum(expected["assistant_masks"]) > 0

    row = template_in(tmp_path, with_tags if tagged else plain).encode(messages)

    assert row.input_ids == expected["input_ids"]
    assert row.supervised == [bool(mask) for mask in expected["assistant_masks"]]


@pytest.mark.needs_torch
def test_the_generation_prompt_equals_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template = template_in(tmp_path, CHATML)
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template([USER], add_generation_prompt=True)
    assert template.encode_prompt([USER]) == theirs["input_ids"]


@pytest.mark.parametrize("style", STYLES)
def test_the_end_token_counts_and_the_header_does_not(tmp_path: Path, style: str) -> None:
    template = template_in(tmp_path, STYLES[style][0])
    end = {"chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "mistral": "</s>"}[style]
    text = supervised_text(template, [USER, {"role": "assistant", "content": "ab"}])
    assert text.strip() == f"ab{end}"


def test_white_space_after_the_end_token_inside_the_tags_does_not_count(tmp_path: Path) -> None:
    source = with_generation_tags(CHATML, "<|im_start|>assistant\n", "{{ message['content'] + '<|im_end|>\n' }}")
    text = supervised_text(template_in(tmp_path, source), CONVERSATIONS[1])
    assert text == "ab\n<|im_end|>the cat<|im_end|>"


def test_an_end_token_just_behind_the_tags_counts(tmp_path: Path) -> None:
    source = with_generation_tags(CHATML, "<|im_start|>assistant\n", "{{ message['content'] }}").replace(
        "{% endgeneration %}", "{% endgeneration %}<|im_end|>{{ '\n' }}"
    )
    assert supervised_text(template_in(tmp_path, source), CONVERSATIONS[1]) == "ab\n<|im_end|>the cat<|im_end|>"


def test_eos_is_added_where_the_template_leaves_the_turn_open(tmp_path: Path) -> None:
    template = template_in(tmp_path, OPEN_ENDED)
    row = template.encode([USER, {"role": "assistant", "content": "ab"}])
    assert row.input_ids[-1] == template.eos_token_id
    assert supervised_text(template, [USER, {"role": "assistant", "content": "ab"}]) == "ab<|im_end|>"
    assert template.stop_token_ids() == [template.eos_token_id]


def test_an_open_template_without_eos_is_refused(tmp_path: Path) -> None:
    template = template_in(tmp_path, OPEN_ENDED, eos_token=None)
    with pytest.raises(InvalidChatTemplate, match="eos_token"):
        template.encode([USER, {"role": "assistant", "content": "ab"}])


@pytest.mark.parametrize("style", ["chatml", "llama-3"])
@pytest.mark.parametrize("tagged", [False, True])
def test_a_turn_with_weight_0_does_not_count(tmp_path: Path, style: str, tagged: bool) -> None:
    template = template_in(tmp_path, STYLES[style][tagged])
    messages = [
        USER,
        {"role": "assistant", "content": "one", "weight": 0},
        USER,
        {"role": "assistant", "content": "two"},
    ]
    text = supervised_text(template, messages)
    assert text.startswith("two")
    assert "one" not in text


def test_truncation_cuts_the_end_and_is_counted(tmp_path: Path) -> None:
    template = template_in(tmp_path, CHATML)
    whole = template.encode(CONVERSATIONS[0])
    cut = template.encode(CONVERSATIONS[0], max_seq_len=20)
    assert cut.input_ids == whole.input_ids[:20]
    assert cut.truncated_tokens == len(whole.input_ids) - 20
    assert (len(cut.supervised), whole.truncated_tokens) == (20, 0)


def test_a_template_that_changes_earlier_turns_is_refused(tmp_path: Path) -> None:
    source = "{{ messages | length }}" + CHATML
    with pytest.raises(InvalidChatTemplate, match="generation %"):
        template_in(tmp_path, source).encode(CONVERSATIONS[1])


def test_the_templates_own_refusal_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnrenderableRow, match="Only user and assistant!"):
        template_in(tmp_path, MISTRAL).encode(CONVERSATIONS[2])


def test_the_sandbox_holds(tmp_path: Path) -> None:
    template = template_in(tmp_path, "{{ messages.__class__.__mro__ }}")
    with pytest.raises(UnrenderableRow):
        template.encode(CONVERSATIONS[0])


def test_a_missing_template_or_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidChatTemplate, match=r"no chat template.*instruct"):
        template_in(tmp_path, None).encode(CONVERSATIONS[0])
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InvalidChatTemplate, match=r"no tokenizer\.json"):
        ChatTemplate.from_folder(tmp_path)


def test_a_jinja_file_wins_and_changes_the_hash(tmp_path: Path) -> None:
    first = template_in(tmp_path, CHATML)
    (tmp_path / "chat_template.jinja").write_text(LLAMA3)
    second = ChatTemplate.from_folder(tmp_path)
    assert first.sha256 != second.sha256
    assert second.render([USER], generation_prompt=False).startswith("<|endoftext|><|start_header_id|>")


def test_tools_reach_the_template_of_their_own(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": CHATML},
        {"name": "tool_use", "template": "{{ tools | tojson }}" + CHATML},
    ]
    template = template_in(tmp_path, None, chat_template=named)
    assert template.render([USER], [{"name": "<add>"}], generation_prompt=False).startswith('[{"name": "<add>"}]')
    assert template.render([USER], generation_prompt=False).startswith("<|im_start|>")

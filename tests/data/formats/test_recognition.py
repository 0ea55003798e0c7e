"""Each spelling of each format is found by itself, and becomes the same row of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_hub.data.defects import BadRow
from finetune_hub.data.formats.known_formats import recognise
from finetune_hub.data.formats.mapped import Mapped
from finetune_hub.data.report import look_at
from finetune_hub.data.rows import LabelledRow, PreferenceRow, as_chat, is_supervised
from finetune_hub.spec.refusal import Refusal

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
ASK, ANSWER = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": 1}}}],
}
ADD = {"name": "add", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": ADD}]


def convert(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    found = recognise([row])
    assert found is not None
    return found.format.name, found.format.convert(row).document()


CHAT = {"messages": [ASK, ANSWER]}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (CHAT, "chat"),
        ({"messages": json.dumps([ASK, ANSWER])}, "chat"),
        ({"messages": [{**ASK, "name": None}, ANSWER], "tools": None}, "chat"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}, ANSWER]}, "chat"),
        ({"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}, "sharegpt"),
        ({"messages": [{"from": "human", "value": "2 + 2?"}, {"from": "model", "value": "4"}]}, "sharegpt"),
        ({"conversation": [ASK, ANSWER]}, "sharegpt"),
        ({"instruction": "2 + 2?", "input": "", "output": "4"}, "alpaca"),
        ({"instruction": "2 + 2?", "context": None, "response": "4"}, "alpaca"),
        ({"question": "2 + 2?", "answer": "4"}, "question_answer"),
        ({"input": "2 + 2?", "output": "4"}, "question_answer"),
        ({"prompt": [ASK], "completion": [ANSWER]}, "prompt_completion"),
    ],
)
def test_one_chat_in_many_spellings(row: dict[str, Any], name: str) -> None:
    assert convert(row) == (name, CHAT)


PAIR = {"prompt": [ASK], "chosen": [ANSWER], "rejected": [WRONG]}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (PAIR, "preference"),
        ({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, "preference"),
        ({"chosen": [ASK, ANSWER], "rejected": [ASK, WRONG]}, "preference"),
        ({"prompt": "2 + 2?", "chosen": [ASK, ANSWER], "rejected": [ASK, WRONG]}, "preference"),
        ({"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4",
          "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"}, "preference"),
        ({"input": {"messages": [ASK]}, "preferred_output": [ANSWER], "non_preferred_output": [WRONG]},
         "openai_preference"),
        ({"conversations": [{"from": "human", "value": "2 + 2?"}], "chosen": {"from": "gpt", "value": "4"},
          "rejected": {"from": "gpt", "value": "5"}}, "preference"),
        ({"instruction": "2 + 2?", "input": "", "chosen": "4", "rejected": "5"}, "preference"),
    ],
)  # fmt: skip
def test_one_pair_in_many_spellings(row: dict[str, Any], name: str) -> None:
    assert convert(row) == (name, PAIR)


LABELLED = {"prompt": [ASK], "completion": [ANSWER], "label": True}


@pytest.mark.parametrize(
    "row",
    [
        LABELLED,
        {"prompt": "2 + 2?", "completion": "4", "label": True},
        {"prompt": "2 + 2?", "completion": "4", "label": "True"},
        {"messages": [ASK, ANSWER], "label": True},
        {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}], "kto_tag": True},
        {"instruction": "2 + 2?", "output": "4", "kto_tag": True},
    ],
)
def test_one_labelled_answer_in_many_spellings(row: dict[str, Any]) -> None:
    assert convert(row) == ("kto", LABELLED)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, CALL], "tools": TOOLS},
        {"messages": [ASK, CALL], "tools": json.dumps([ADD])},
        {"messages": [ASK, {**CALL, "tool_calls": [{"name": "add", "arguments": '{"b": 2, "a": 1}'}]}], "tools": [ADD]},
        {"messages": [ASK, {"role": "assistant", "content": "", "function_call": CALL["tool_calls"][0]["function"]}],
         "tools": TOOLS},
        {"conversations": [{"from": "human", "value": "2 + 2?"},
                           {"from": "function_call", "value": '{"name": "add", "arguments": {"b": 2, "a": 1}}'}],
         "tools": json.dumps([ADD])},
    ],
)  # fmt: skip
def test_one_tool_call_in_many_spellings(row: dict[str, Any]) -> None:
    document = convert(row)[1]
    assert document == {"messages": [ASK, CALL], "tools": TOOLS}
    arguments = document["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert list(arguments) == ["b", "a"]  # In their own order: the template writes them so.


def test_raw_text_stays_raw() -> None:
    assert convert({"prompt": "a", "completion": "b"}) == ("prompt_completion", {"prompt": "a", "completion": "b"})
    assert convert({"text": "a", "id": 3}) == ("text", {"text": "a"})


def test_a_turn_is_left_out_of_the_loss_in_three_spellings() -> None:
    for mark in ({"weight": 0}, {"train": False}, {"loss": False}):
        document = convert({"messages": [ASK, ANSWER | mark, ASK, ANSWER]})[1]
        assert [message.get("weight") for message in document["messages"]] == [None, 0, None, None]


def test_fine_tuning_learns_the_chosen_answer_and_no_bad_one() -> None:
    pair = PreferenceRow([ASK, WRONG, ASK], [ANSWER], [WRONG])
    assert [is_supervised(message) for message in as_chat(pair).messages] == [False, False, False, True]
    bad = LabelledRow([ASK], [WRONG], label=False)
    assert not any(map(is_supervised, as_chat(bad).messages))


def test_most_rows_decide() -> None:
    found = recognise([{"messages": [ASK]}, {"text": "a"}, {"text": "b"}])
    assert found is not None
    assert found.format.name == "text"
    assert recognise([{"a": 1}]) is None


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"chosen": "4", "rejected": "5"}, "no_prompt"),
        ({"chosen": [ANSWER], "rejected": [WRONG]}, "no_prompt"),
        ({"prompt": "a", "chosen": "4", "rejected": "4"}, "same_answers"),
        ({"prompt": "a", "chosen": [ASK], "rejected": "4"}, "no_assistant_turn"),
        ({"instruction": "a", "output": ""}, "no_assistant_turn"),
        ({"instruction": "a", "output": 4}, "invalid_content"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "invalid_content"),
        ({"prompt": "a", "completion": ""}, "no_assistant_turn"),
        ({"text": " "}, "empty_text"),
    ],
)
def test_what_cannot_be_learned_is_refused(row: dict[str, Any], code: str) -> None:
    with pytest.raises(BadRow) as refused:
        convert(row)
    assert {problem.code for problem in refused.value.problems} == {code}


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"q": "user", "a": "assistant"}, CHAT),
        ({"q": "user", "a": "chosen", "w": "rejected"}, PAIR),
        ({"q": "user", "a": "assistant", "good": "label"}, LABELLED),
        ({"q": "prompt", "a": "completion"}, {"prompt": "2 + 2?", "completion": "4"}),
        ({"a": "text"}, {"text": "4"}),
        ({"s": "system", "q": "user", "a": "assistant"},
         {"messages": [{"role": "system", "content": "s"}, ASK, ANSWER]}),
    ],
)  # fmt: skip
def test_columns_are_mapped_by_hand(mapping: dict[str, str], expected: dict[str, Any]) -> None:
    row = {"q": "2 + 2?", "a": "4", "w": "5", "good": "1", "s": "s"}
    assert Mapped(mapping).convert(row).document() == expected


@pytest.mark.parametrize(
    "mapping", [{}, {"q": "user"}, {"q": "usr"}, {"q": "user", "a": "user"}, {"q": "text", "a": "assistant"}]
)
def test_a_mapping_that_makes_no_row_is_refused(mapping: dict[str, str]) -> None:
    with pytest.raises(Refusal) as refused:
        Mapped(mapping)
    assert refused.value.code == "invalid_mapping"


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data lies beside the project's own checkouts only")
@pytest.mark.parametrize(
    ("name", "format_name", "kind", "rows"),
    [
        ("alpaca_en_demo.json", "alpaca", "chat", 999),
        ("dpo_en_demo.json", "preference", "preference", 300),
        ("glaive_toolcall_en_demo.json", "sharegpt", "chat", 300),
        ("gsm8k_test.jsonl", "question_answer", "chat", 1319),
    ],
)
def test_real_files(name: str, format_name: str, kind: str, rows: int) -> None:
    report = look_at(SHARED / name)
    assert report.is_sound
    assert report.recognised is not None
    assert (report.recognised.format, report.kind, report.row_count) == (format_name, kind, rows)

"""The demo's data: varied, repeatable, and a held-out half that cannot be answered by memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from finetune_hub.data.report import look_at
from finetune_hub.data.sample_tickets import FIRST_NAME_ENDINGS, LAST_NAME_ENDINGS, Split, ticket_rows, write_tickets

ROWS = 400


def answers(split: Split) -> list[dict[str, Any]]:
    return [json.loads(row["messages"][-1]["content"]) for row in ticket_rows(split, ROWS)]


def test_held_out_names_and_orders_were_never_trained() -> None:
    trained, held_out = answers("train"), answers("held_out")
    for part in ("order", "customer"):
        assert not {row[part] for row in trained} & {row[part] for row in held_out}
    for endings in (FIRST_NAME_ENDINGS, LAST_NAME_ENDINGS):
        assert not any(held.endswith(tuple(endings["train"])) for held in endings["held_out"])
    numbers = [row["order"].partition("-")[2] for row in trained + held_out]
    assert len(set(numbers)) == 2 * ROWS


def test_every_answer_can_be_read_in_its_ticket() -> None:
    for row in ticket_rows("train", ROWS):
        _, user, assistant = row["messages"]
        answer = json.loads(assistant["content"])
        assert list(answer) == ["customer", "order", "product", "problem"]
        for part in ("customer", "order", "product"):
            assert re.search(rf"\b{answer[part]}\b", user["content"])


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    first, again = (write_tickets(tmp_path / name, "train", ROWS) for name in ("a.jsonl", "b.jsonl"))
    assert first.read_bytes() == again.read_bytes()
    report = look_at(first)
    assert report.is_sound
    assert report.row_count == ROWS

"""Differences add up, leaks are found however they are dressed, and no question lies on both sides of a split."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_hub.data.comparison import asked, choose_held_out, diff_files, find_overlap
from tests.factories import chat_row, write_rows

WORDS = "red green blue one two three four five sun moon star cat dog bird tree river stone cloud".split()


def test_rows_that_came_went_and_changed(tmp_path: Path) -> None:
    old = write_rows(tmp_path / "old", [chat_row("a", "1"), chat_row("b", "1"), chat_row("c", "1"), chat_row("c", "1")])
    new = write_rows(tmp_path / "new", [chat_row("c", "1"), chat_row("d", "1"), chat_row("b", "2"), chat_row("c", "1")])
    diff = diff_files(old, new)
    assert (diff.added, diff.removed, diff.changed, diff.unchanged) == (1, 1, 1, 2)
    assert (diff.added_rows, diff.removed_rows, diff.changed_rows) == ([2], [1], [(2, 3)])
    assert diff.sentence == "1 added, 1 removed, 1 changed; 2 unchanged."
    assert diff_files(old, old).sentence == "No differences; 4 unchanged."


ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12")), max_size=8)


@settings(max_examples=100, deadline=None)
@given(ROWS, ROWS)
def test_every_row_is_told_once(old: list[tuple[str, str]], new: list[tuple[str, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("old", "new")]
        for path, rows in zip(paths, (old, new), strict=True):
            write_rows(path, [chat_row(*row) for row in rows])
        diff = diff_files(*paths)
    assert diff.unchanged + diff.changed + diff.removed == len(old)
    assert diff.unchanged + diff.changed + diff.added == len(new)


def test_a_leak_is_found_however_it_is_dressed(tmp_path: Path) -> None:
    draw = random.Random(3)
    questions = [" ".join(draw.choices(WORDS, k=30)) for _ in range(200)]
    train = write_rows(tmp_path / "train", [chat_row(question) for question in questions])
    dressed = questions[0].upper() + "?!"
    nearly = questions[1].rsplit(" ", 1)[0] + " mountain"
    fresh = [" ".join(draw.choices(WORDS, k=30)) for _ in range(100)]
    held_out = write_rows(tmp_path / "held", [chat_row(question) for question in (*fresh, dressed, nearly)])
    overlap = find_overlap(held_out, train)
    assert (overlap.rows, overlap.same, overlap.near) == (102, 1, 1)
    assert [(leak.row, leak.other_row) for leak in overlap.leaks] == [(101, 1), (102, 2)]
    assert find_overlap(train, train).same == 0
    twice = write_rows(tmp_path / "twice", [chat_row("a b c"), chat_row("A, b. c!", "other")])
    assert find_overlap(twice, twice).leaks[0].model_dump() == {"row": 2, "other_row": 1, "similarity": 1}


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_a_split_is_the_seeds_and_keeps_questions_together(tmp_path: Path, fraction: float) -> None:
    rows = [chat_row(f"question {number // 2}", str(number)) for number in range(200)]
    path = write_rows(tmp_path / "rows", rows)
    chosen = choose_held_out(path, fraction, seed=7)
    assert abs(len(chosen) - 200 * fraction) <= 1
    assert chosen == choose_held_out(path, fraction, seed=7) != choose_held_out(path, fraction, seed=8)
    lines = path.read_bytes().splitlines()
    sides = [
        {asked(line) for number, line in enumerate(lines, 1) if (number in chosen) == side} for side in (True, False)
    ]
    assert not sides[0] & sides[1]

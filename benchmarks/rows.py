"""Rows for the benchmarks: GSM8K's `question` and `answer` as chat, or generated word problems of similar length."""

from __future__ import annotations

import json
import random
from pathlib import Path

NAMES = ("Ada", "Noor", "Emil", "Kofi", "Lena", "Iris")
THINGS = ("pencils", "apples", "stamps", "marbles", "tickets", "shells")


def write_rows(path: Path, count: int, source: Path | None) -> Path:
    """Write `count` chat rows.

    Args:
        source: A JSONL file with `question` and `answer` in each line (GSM8K's format); None generates rows.
    """
    if source is None:
        pairs = [word_problem(number) for number in range(count)]
    else:
        lines = source.read_text(encoding="utf-8").splitlines()[:count]
        pairs = [(row["question"], row["answer"]) for row in map(json.loads, lines)]
    with path.open("w", encoding="utf-8") as file:
        for question, answer in pairs:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def word_problem(seed: int) -> tuple[str, str]:
    """Return a question of three to six sentences and its worked answer, the same for the same seed."""
    draw = random.Random(seed)
    who, what = draw.choice(NAMES), draw.choice(THINGS)
    total = draw.randint(10, 60)
    question, answer = [f"{who} has {total} {what} in a box on the shelf."], []
    for day in range(1, draw.randint(2, 6)):
        change = draw.randint(2, 40)
        question.append(f"On day {day} a friend comes by and brings {change} more {what}, which {who} puts in the box.")
        answer.append(f"After day {day} the box holds {total} + {change} = <<{total}+{change}={total + change}>>")
        answer.append(f"{total + change} {what}.")
        total += change
    question.append(f"How many {what} does {who} have in the end?")
    return " ".join(question), "\n".join([" ".join(answer), f"#### {total}"])

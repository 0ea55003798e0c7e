"""Instructions: alpaca's columns, and plain questions with answers. Both become a chat of two or more turns.

Alpaca's `input` is appended to its `instruction`, as in LLaMA-Factory; `history` has earlier pairs, which are context
and not supervised.
"""

from __future__ import annotations

from finetune_hub.data.defects import RowProblem
from finetune_hub.data.formats.format import (
    Document,
    first_of,
    no_answer,
    optional_text,
    quoted,
    raise_any,
    text_at,
)
from finetune_hub.data.rows import ChatRow, Message

_PAIRS = [
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("input", "output"),
    ("user", "assistant"),
    ("problem", "solution"),
]


class Alpaca:
    name = "alpaca"
    title = "alpaca"

    def looks(self, row: Document) -> str | None:
        answer = _answer_of(row)
        return f"it has {quoted('instruction', answer)}" if "instruction" in row and answer else None

    def convert(self, row: Document) -> ChatRow:
        problems: list[RowProblem] = []
        messages = instruction_prompt(row, problems)
        answer = text_at(row, _answer_of(row) or "output", problems)
        if not problems and not answer:
            no_answer(problems, _answer_of(row) or "output")
        raise_any(problems)
        return ChatRow([*messages, {"role": "assistant", "content": answer}])


class QuestionAnswer:
    name = "question_answer"
    title = "Questions and answers"

    def looks(self, row: Document) -> str | None:
        pair = _pair_of(row)
        return f"it has {quoted(*pair)}" if pair else None

    def convert(self, row: Document) -> ChatRow:
        question, answer = _pair_of(row) or _PAIRS[0]
        return turns_row(row, question, answer, "system")


def turns_row(row: Document, question: str, answer: str, system: str | None) -> ChatRow:
    """Build a chat from columns.

    Raises:
        BadRow: with all its problems.
    """
    problems: list[RowProblem] = []
    system_text = optional_text(row, system, problems) if system else ""
    messages = [
        {"role": "user", "content": text_at(row, question, problems)},
        {"role": "assistant", "content": text_at(row, answer, problems)},
    ]
    if not problems and not messages[1]["content"]:
        no_answer(problems, answer)
    raise_any(problems)
    return ChatRow([{"role": "system", "content": system_text}, *messages] if system_text else messages)


def instruction_prompt(row: Document, problems: list[RowProblem]) -> list[Message]:
    """Return system text, history, and the instruction with its input: everything before the answer."""
    system = optional_text(row, "system", problems)
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(p, list) and len(p) == 2 for p in history):
        problems.append(
            RowProblem(
                "invalid_content",
                "`history` is not a list of pairs",
                'Write [["question", "answer"], …], or remove it.',
                path=("history",),
            )
        )
        history = []
    for question, answer in history:
        messages.append({"role": "user", "content": str(question)})
        messages.append({"role": "assistant", "content": str(answer), "weight": 0})
    below = optional_text(row, first_of(row, "input", "context") or "input", problems)
    asked = text_at(row, "instruction", problems)
    return [*messages, {"role": "user", "content": f"{asked}\n{below}" if below else asked}]


def _answer_of(row: Document) -> str | None:
    return next((name for name in ("output", "response", "answer", "completion") if name in row), None)


def _pair_of(row: Document) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if pair[0] in row and pair[1] in row), None)

"""Raw text: a prompt with its completion, or text alone. Neither goes through the chat template.

The model learns the text as it is. To get chat turns instead, map the columns:
`prompt=user`, `completion=assistant`.
"""

from __future__ import annotations

from finetune_hub.data.defects import RowProblem
from finetune_hub.data.formats.chat import Chat
from finetune_hub.data.formats.format import Document, first_of, no_answer, quoted, raise_any, text_at
from finetune_hub.data.formats.messages import read_answer, read_prompt, read_tools
from finetune_hub.data.rows import ChatRow, CompletionRow, TextRow, muted


class PromptCompletion:
    name = "prompt_completion"
    title = "Prompt and completion"

    def looks(self, row: Document) -> str | None:
        if "prompt" not in row or "completion" not in row:
            return None
        kind = "raw text without a chat template" if isinstance(row["completion"], str) else "messages"
        return f"it has {quoted('prompt', 'completion')}: {kind}"

    def convert(self, row: Document) -> CompletionRow | ChatRow:
        if not isinstance(row.get("prompt"), str) or not isinstance(row.get("completion"), str):
            return self._conversation(row)
        return completion_row(row, "prompt", "completion")

    def _conversation(self, row: Document) -> ChatRow:
        problems: list[RowProblem] = []
        prompt = read_prompt(row.get("prompt"), ("prompt",), problems)
        answer = read_answer(row.get("completion"), ("completion",), problems)
        tools = read_tools(row.get("tools"), problems)
        raise_any(problems)
        return Chat().convert({"messages": muted(prompt) + answer, "tools": tools})


class Text:
    name = "text"
    title = "Plain text"

    def looks(self, row: Document) -> str | None:
        name = first_of(row, "text", "content")
        return f"it has a `{name}` and no answer: every token is supervised" if name else None

    def convert(self, row: Document) -> TextRow:
        return text_row(row, first_of(row, "text", "content") or "text")


def completion_row(row: Document, prompt: str, completion: str) -> CompletionRow:
    """Raises:
    BadRow: with all its problems.
    """
    problems: list[RowProblem] = []
    texts = text_at(row, prompt, problems), text_at(row, completion, problems)
    if not problems and not texts[1]:
        no_answer(problems, completion)
    raise_any(problems)
    return CompletionRow(*texts)


def text_row(row: Document, name: str) -> TextRow:
    """Raises:
    BadRow: with all its problems.
    """
    problems: list[RowProblem] = []
    text = text_at(row, name, problems)
    if not problems and not text.strip():
        problems.append(RowProblem("empty_text", f"`{name}` is blank", "Add text, or delete the row.", path=(name,)))
    raise_any(problems)
    return TextRow(text)

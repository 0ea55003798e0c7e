"""Dataset files with a defect each, and where it lies: the API and the command line refuse them in the same words."""

from __future__ import annotations

import json
from typing import NamedTuple

GOOD_ROW = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
ROW_WITHOUT_ANSWER = json.dumps({"messages": [{"role": "user", "content": "a"}]})


class BadFile(NamedTuple):
    name: str
    content: str
    code: str
    line: int | None


BAD_FILES = [
    BadFile("words.jsonl", "neither JSON\nnor a table\n", "not_jsonl", None),
    BadFile("broken.jsonl", f"{GOOD_ROW}\n{{oops\n", "invalid_jsonl_line", 2),
    BadFile("table.csv", 'question,answer\n"2 + 2?",4\n"2 + 2?","4" x\n', "invalid_table_row", 3),
    BadFile("unanswered.jsonl", f"{GOOD_ROW}\n{GOOD_ROW}\n{ROW_WITHOUT_ANSWER}\n", "no_assistant_turn", 3),
    BadFile("empty.jsonl", "", "empty_file", None),
]

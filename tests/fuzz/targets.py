"""The parsers under test: each takes bytes and may only raise the errors that users are told of."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import zstandard
from django.core.handlers.wsgi import WSGIRequest
from django.http import QueryDict
from pydantic import TypeAdapter, ValidationError
from rest_framework.exceptions import APIException
from rest_framework.request import Request

from finetune_hub.api.bodies import (
    NewBaseModelImport,
    NewDatasetImport,
    NewEvaluation,
    NewToken,
    PresetQuestion,
    Submission,
    read_body,
    refuse_nul,
)
from finetune_hub.api.parsers import ShallowJSONParser
from finetune_hub.dashboard.live import Cursor
from finetune_hub.dashboard.markdown import render_foreign
from finetune_hub.data.chat_template import ChatTemplate, InvalidChatTemplate
from finetune_hub.data.intake import read_rows
from finetune_hub.data.report import look_at
from finetune_hub.spec.document_defects import refuse_document
from finetune_hub.spec.duration import Duration, seconds_of
from finetune_hub.spec.huggingface_reference import HuggingFaceReference
from finetune_hub.spec.merge_patch import merge_patch
from finetune_hub.spec.problem import Explained
from finetune_hub.spec.recipes.translate import translate
from finetune_hub.spec.references import DatasetName, split_version
from finetune_hub.spec.training import TrainingSpec

CHAT = b'{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", "weight": 1}]}\n'
TABLE = b'question,answer\n"2+2?",4\n"a ""b""",\xc3\xa9\n'
RECIPE = b"base_model: a/b\nadapter: qlora\nlora_r: 8\nlora_alpha: 16\ndatasets:\n  - path: a/rows\n    type: alpaca\n"
FACTORY = b"model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\nlora_target: all\ndataset: identity\n"
SPEC = b'{"base_model": "m", "datasets": [{"name": "d", "weight": 0.5}], "method": {"type": "lora", "rank": 4}}'
MARKDOWN = b"# A\n\n[a](javascript:x) ![b](http://c) <b onclick=x>*d*</b>\n\n| a |\n|---|\n| `b` |\n\n```py\nx\n```\n"
SETTINGS = b'{"eos_token": {"content": "</s>"}, "chat_template": [{"name": "default", "template": "{{ messages }}"}]}'
DURATION: TypeAdapter[str] = TypeAdapter(Duration)
DATASET_NAME: TypeAdapter[str] = TypeAdapter(DatasetName)
MAX_ROWS = 50
ACTIVE = re.compile(r"<(script|img|iframe|object|embed|style|form)\b|<[^>]*\s(on\w+|style)=|href=\"javascript:")
_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


@dataclass(frozen=True)
class Target:
    """A parser, and where fuzzing starts."""

    parse: Callable[[bytes], object]
    seeds: Sequence[bytes]
    share: int = 1
    """Of the inputs, relative to the other targets."""


def dataset(suffix: str) -> Callable[[bytes], object]:
    path = _FOLDER / f"rows{suffix}"

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        try:
            look_at(path).raise_for_errors()
        except Explained:
            return
        for _ in islice(read_rows(path), MAX_ROWS):
            pass

    return parse


def recipe(data: bytes) -> None:
    try:
        translate(data.decode(errors="replace"))
    except Explained:
        pass


def spec(data: bytes) -> None:
    try:
        TrainingSpec.model_validate_json(data)
    except ValidationError as error:
        refuse_document(error, TrainingSpec, "invalid_spec")


def request_body(data: bytes) -> None:
    """The first byte chooses the endpoint's model."""
    models = (Submission, NewEvaluation, NewDatasetImport, NewBaseModelImport, NewToken, PresetQuestion)
    model = models[data[0] % len(models)] if data else Submission
    body = data[1:]
    environment = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    try:
        read_body(Request(WSGIRequest(environment), parsers=[ShallowJSONParser()]), model)
    except (Explained, APIException):
        pass


def query(data: bytes) -> None:
    environment = {"REQUEST_METHOD": "GET", "QUERY_STRING": data.decode("latin-1"), "wsgi.input": io.BytesIO()}
    request = WSGIRequest(environment)
    try:
        refuse_nul(request)
    except Explained:
        pass
    assert isinstance(request.GET, QueryDict)


def markdown(data: bytes) -> None:
    html = render_foreign(data.decode(errors="replace"), prefix="x").lower()
    assert not ACTIVE.search(html)


def names(data: bytes) -> None:
    text = data.decode(errors="replace")
    HuggingFaceReference.parse(text)
    Cursor.parse(text)
    for kind in (DURATION, DATASET_NAME):
        try:
            value = kind.validate_python(text)
        except ValidationError:
            continue
        (seconds_of if kind is DURATION else split_version)(value)


def patch(data: bytes) -> None:
    try:
        first, second = json.loads(b"[" + data + b"]")
    except (ValueError, RecursionError):
        return
    merge_patch(first, second)


def tokenizer_settings(data: bytes) -> None:
    """The settings of a tokenizer; its template is compiled, not rendered: that is for a process that can be killed."""
    if b"**" in data or b"*" in data:  # Jinja computes constants.
        return
    _tokenizer_file()
    (_FOLDER / "tokenizer_config.json").write_bytes(data)
    try:
        ChatTemplate.from_folder(_FOLDER)
    except InvalidChatTemplate:
        pass


def _tokenizer_file() -> None:
    file = _FOLDER / "tokenizer.json"
    if not file.exists():
        from tokenizers import Tokenizer, models

        Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(file))


def _parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    columns: dict[str, list[Any]] = {"prompt": ["a", "b"], "completion": ["c", "d"]}
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


TARGETS = {
    "JSONL": Target(dataset(".jsonl"), [CHAT, b'{"text": "a"}\n', b'{"prompt": "a", "completion": "b"}\n'], 4),
    "JSON": Target(dataset(".json"), [b"[" + CHAT.strip() + b"]", b'{"data": [{"text": "a"}]}'], 3),
    "CSV": Target(dataset(".csv"), [TABLE], 3),
    "TSV": Target(dataset(".tsv"), [TABLE.replace(b",", b"\t")]),
    "text": Target(dataset(".txt"), [b"a\n\nb\n", "é\n".encode("utf-16")]),
    "Parquet": Target(dataset(".parquet"), [_parquet()]),
    "gzip": Target(dataset(".jsonl.gz"), [gzip.compress(CHAT, mtime=0)]),
    "zstd": Target(dataset(".jsonl.zst"), [zstandard.compress(CHAT)]),
    "recipe": Target(recipe, [RECIPE, FACTORY], 3),
    "training spec": Target(spec, [SPEC], 3),
    "request body": Target(request_body, [b"\0" + SPEC, b"\1" + SPEC], 3),
    "query": Target(query, [b"limit=1&cursor=a%00b", b"q=%ff&&=;"]),
    "Markdown": Target(markdown, [MARKDOWN], 2),
    "names": Target(names, [b"hf:a/b@main", b"rows@3", b"1h30m", b"1-2-3"], 2),
    "merge patch": Target(patch, [b'{"a": {"b": 1}}, {"a": {"b": null}}']),
    "tokenizer settings": Target(tokenizer_settings, [SETTINGS]),
}

"""Chat templates: from messages to token ids, and to the tokens that count in the loss.

    text       = the model's Jinja template, rendered in a sandbox
    input_ids  = tokenizer.json applied to the text
    supervised = tokens that overlap an assistant's turn, including its end token

Turns are located by the template's `{% generation %}` tags. A template without them is rendered for prefixes of the
conversation: whatever follows `messages[:i]` with the generation prompt is turn i, exactly what the model has to
produce when it is served. Needs neither torch nor transformers; `tests/data/test_chat_template.py` checks that ids and
masks equal those of transformers' `apply_chat_template`.
Source: transformers, "Chat templates" (trim_blocks, lstrip_blocks, `tojson`, `raise_exception`, `strftime_now`).
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from finetune_hub.data.rows import Message, is_supervised
from finetune_hub.spec.problem import FailureClass
from finetune_hub.spec.refusal import Refusal

Span = tuple[int, int]  # Characters [start, end).
MAX_TEXT_CHARACTERS = 64_000_000  # Of one rendered conversation, of which a row has at most 16 MiB.
_SHOWN_REASON = 300


class InvalidChatTemplate(Refusal):
    """The base model's chat template or tokenizer cannot be used."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__("unrenderable_row", message, remedy, field="base_model")


NO_CHAT_TEMPLATE = (
    "The base model has no chat template, so conversations cannot be turned into tokens.",
    "Use its instruct or chat variant, put a chat_template.jinja next to its tokenizer.json, or, for a model on the "
    "hub, set a known template with `finetune-hub base-models set-template`.",
)


class UnrenderableRow(InvalidChatTemplate):
    """The chat template refuses this conversation."""

    failure_class: FailureClass = "bad_data"


class NothingSupervised(InvalidChatTemplate):
    """The template works, but no token of the answers is supervised."""

    failure_class: FailureClass = "bad_data"


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row as the model sees it. The lists have one value per token; `spans` also covers truncated tokens."""

    input_ids: list[int]
    supervised: list[bool]
    truncated_tokens: int
    text: str
    spans: list[Span]  # Position of each token in the text; empty for an added end token.

    @classmethod
    def cut(
        cls, ids: list[int], supervised: list[bool], text: str, spans: list[Span], max_seq_len: int | None
    ) -> EncodedRow:
        """Return the row truncated to `max_seq_len` tokens."""
        truncated = 0 if max_seq_len is None else max(0, len(ids) - max_seq_len)
        return cls(ids[:max_seq_len], supervised[:max_seq_len], truncated, text, spans)


class ChatTemplate:
    """A base model's chat template with its tokenizer."""

    def __init__(self, sources: dict[str, str], tokenizer: Tokenizer, special_tokens: dict[str, str]) -> None:
        """
        Args:
            sources: Jinja templates by name: `default`, and optionally `tool_use` for rows with tools. If empty, only
                raw text can be encoded.
            special_tokens: `eos_token`, `bos_token` and so on, by their names in templates.
        """
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens
        self._environment, self._generation = _sandbox()
        self._templates = {name: self._compile(source) for name, source in sources.items()}
        self.sha256 = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()
        self._special_ids = {id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        eos_token = special_tokens.get("eos_token")
        self.eos_token_id: int | None = None if eos_token is None else tokenizer.token_to_id(eos_token)
        if self.eos_token_id is not None:
            self._special_ids.add(self.eos_token_id)

    @classmethod
    def from_folder(cls, folder: Path) -> ChatTemplate:
        """Load the template and tokenizer of a base model folder.

        Raises:
            InvalidChatTemplate: a file is missing or broken.
        """
        tokenizer_file = folder / "tokenizer.json"
        if not tokenizer_file.is_file():
            raise InvalidChatTemplate(
                "The base model has no tokenizer.json.",
                "Save its tokenizer with transformers' `save_pretrained` and import the model again.",
            )
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as broken:
            raise InvalidChatTemplate(
                f"The base model's tokenizer.json cannot be read ({broken}).", "Import the base model again."
            ) from broken
        tokenizer.no_truncation()
        tokenizer.no_padding()
        settings = _read_settings(folder / "tokenizer_config.json")
        return cls(_template_sources(folder, settings), tokenizer, _special_tokens(settings))

    def render(self, messages: Sequence[Message], tools: list[Any] | None = None, *, generation_prompt: bool) -> str:
        """Render the conversation as text; `generation_prompt` opens the assistant's next turn."""
        return self._render(messages, tools, generation_prompt)[0]

    def encode_prompt(self, messages: Sequence[Message], tools: list[Any] | None = None) -> list[int]:
        """Return the ids of the conversation with the assistant's next turn opened, to generate from."""
        text = self.render(messages, tools, generation_prompt=True)
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(
        self, messages: Sequence[Message], tools: list[Any] | None = None, max_seq_len: int | None = None
    ) -> EncodedRow:
        """Return the ids of a whole conversation and which of them are supervised.

        Args:
            max_seq_len: Tokens to keep; a longer row is truncated at the end.

        Raises:
            UnrenderableRow: the template refuses the conversation.
            InvalidChatTemplate: the assistant's turns cannot be found in the rendered text.
        """
        text, marked_spans = self._render(messages, tools, generation_prompt=False)
        _, is_marked = self._template_for(tools)
        spans = _drop_weightless(messages, marked_spans) if is_marked else self._spans_by_prefix(text, messages, tools)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        supervised = [False] * len(ids)
        ends_open = False
        for span in spans:
            first, last = self._token_range(text, ids, offsets, span)
            supervised[first:last] = [True] * (last - first)
            ends_open = last > first and ids[last - 1] not in self._special_ids
        if ends_open and is_supervised(messages[-1]):
            last = len(supervised) - supervised[::-1].index(True)
            ids, supervised = [*ids[:last], self._required_eos()], [*supervised[:last], True]
            offsets = [*offsets[:last], (offsets[last - 1][1],) * 2]
        return EncodedRow.cut(ids, supervised, text, offsets, max_seq_len)

    def encode_text(self, prompt: str, completion: str, max_seq_len: int | None = None) -> EncodedRow:
        """Return the ids of raw text as in pretraining: no template, the tokenizer's first token, EOS at the end.

        The tokens that overlap the completion and EOS are supervised.

        Raises:
            InvalidChatTemplate: the tokenizer has no EOS token.
        """
        text = prompt + completion
        encoding = self._tokenizer.encode(text)
        ids, spans = list(encoding.ids), list(encoding.offsets)
        eos = self._required_eos()
        if ids and ids[-1] == eos:
            ids, spans = ids[:-1], spans[:-1]
        supervised = [end > max(start, len(prompt)) for start, end in spans]
        return EncodedRow.cut([*ids, eos], [*supervised, True], text, [*spans, (len(text),) * 2], max_seq_len)

    def token(self, id_: int) -> str:
        """Return the token as written in the vocabulary."""
        return str(self._tokenizer.id_to_token(id_))

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def stop_token_ids(self) -> list[int]:
        """Ids that end an assistant's turn: the template's end token and EOS."""
        if not self.has_chat_template:
            return [self._required_eos()]
        row = self.encode([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        closing = {id_ for id_, counts in zip(row.input_ids, row.supervised, strict=True) if counts} & self._special_ids
        return sorted(closing | ({self.eos_token_id} if self.eos_token_id is not None else set()))

    def _compile(self, source: str) -> tuple[jinja2.Template, bool]:
        """The template, and whether it has `{% generation %}` tags."""
        try:
            return self._environment.from_string(source), _has_generation_tags(self._environment, source)
        except Exception as broken:  # Jinja computes constants, and nests deeply: it may be anything.
            raise InvalidChatTemplate(
                f"The base model's chat template is not valid Jinja ({_in_words(broken)}).",
                "Fix it and import the model again.",
            ) from broken

    def _template_for(self, tools: list[Any] | None) -> tuple[jinja2.Template, bool]:
        if not self._templates:
            raise InvalidChatTemplate(*NO_CHAT_TEMPLATE)
        return self._templates["tool_use" if tools and "tool_use" in self._templates else "default"]

    def _render(
        self, messages: Sequence[Message], tools: list[Any] | None, generation_prompt: bool
    ) -> tuple[str, list[Span]]:
        """Return the text and the spans of the template's `{% generation %}` blocks in it."""
        plain = [{key: value for key, value in m.items() if value is not None and key != "weight"} for m in messages]
        variables = {**self._special_tokens, "messages": plain, "tools": tools, "documents": None}
        template, _ = self._template_for(tools)
        try:
            text, spans = self._generation.render(template, variables | {"add_generation_prompt": generation_prompt})
            text.encode()  # A lone surrogate, such as "\\ud800", is not text that a tokenizer takes.
            return text, spans
        except Exception as refusal:  # The template is a program that somebody wrote: it may raise anything.
            raise UnrenderableRow(
                f"The chat template refuses the conversation ({_in_words(refusal)}).",
                "Change the row's roles to what the base model's template expects.",
            ) from refusal

    def _spans_by_prefix(self, text: str, messages: Sequence[Message], tools: list[Any] | None) -> list[Span]:
        spans = []
        for index, message in enumerate(messages):
            if not is_supervised(message):
                continue
            before = self.render(messages[:index], tools, generation_prompt=True)
            through = (
                text
                if index == len(messages) - 1
                else self.render(messages[: index + 1], tools, generation_prompt=False)
            )
            if not (text.startswith(before) and text.startswith(through) and len(before) <= len(through)):
                raise InvalidChatTemplate(
                    f"The chat template renders the start of a conversation (up to message {index + 1}) differently on "
                    "its own than within the whole, so the assistant's tokens cannot be found.",
                    "Put {% generation %}…{% endgeneration %} around the assistant's turn in the template, "
                    "or split the row so that only its last turn is supervised.",
                )
            spans.append((len(before), len(through)))
        return spans

    def _token_range(self, text: str, ids: list[int], offsets: list[Span], span: Span) -> Span:
        """Return a span's tokens [first, last), without white space after its end token, with an end token after it."""
        start, end = span
        first = bisect.bisect_right(offsets, start, key=lambda offset: offset[1])
        stripped = start + len(text[start:end].rstrip())
        last = bisect.bisect_left(offsets, stripped, key=lambda offset: offset[0])
        if last > first and ids[last - 1] in self._special_ids:
            return first, last
        last = max(first, bisect.bisect_left(offsets, end, key=lambda offset: offset[0]))
        if last < len(ids) and ids[last] in self._special_ids and offsets[last][0] == end:
            last += 1
        elif end == len(text):  # The template leaves the turn open: put EOS where its white space starts.
            last = max(first, bisect.bisect_left(offsets, stripped, key=lambda offset: offset[0]))
        return first, last

    def _required_eos(self) -> int:
        if self.eos_token_id is None:
            raise InvalidChatTemplate(
                "Neither the chat template nor the tokenizer defines a token that ends the assistant's turn.",
                "Set `eos_token` in tokenizer_config.json and import the model again.",
            )
        return self.eos_token_id


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`: renders its body and records its span."""

    tags = {"generation"}

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self._blocks: list[str] = []
        self._spans: list[Span] = []

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("note"), [], [], body).set_lineno(line)

    def note(self, caller: Callable[[], str]) -> str:
        """Render the block and record its span. Called by the compiled template."""
        body = caller()
        start = sum(map(len, self._blocks))
        self._spans.append((start, start + len(body)))
        return body

    def render(self, template: jinja2.Template, variables: dict[str, Any]) -> tuple[str, list[Span]]:
        """Return the rendered text and the spans of its generation blocks."""
        self._blocks, self._spans = [], []
        length = 0
        for block in template.generate(variables):
            self._blocks.append(block)
            length += len(block)
            if length > MAX_TEXT_CHARACTERS:
                raise jinja2.TemplateError(f"it renders more than {MAX_TEXT_CHARACTERS:,} characters")
        return "".join(self._blocks), self._spans


def _sandbox() -> tuple[ImmutableSandboxedEnvironment, _GenerationTag]:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    tag = environment.extensions[_GenerationTag.identifier]
    assert isinstance(tag, _GenerationTag)
    return environment, tag


def _in_words(error: Exception) -> str:
    """What a template's error says, in one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode(errors="replace").decode()[:_SHOWN_REASON]


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Convert to JSON without escaping HTML characters, unlike Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _has_generation_tags(environment: jinja2.Environment, source: str) -> bool:
    calls = environment.parse(source).find_all(nodes.ExtensionAttribute)
    return any(call.name == "note" for call in calls)


def _drop_weightless(messages: Sequence[Message], spans: list[Span]) -> list[Span]:
    """Return the spans of the turns that count in the loss."""
    turns = [is_supervised(message) for message in messages if message["role"] == "assistant"]
    if all(turns):
        return spans
    if len(turns) != len(spans):
        raise InvalidChatTemplate(
            f"The chat template marks {len(spans)} generated parts for {len(turns)} assistant turns, so `weight` "
            "cannot be applied.",
            "Remove `weight`, or mark each turn once in the template.",
        )
    return [span for span, counts in zip(spans, turns, strict=True) if counts]


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as broken:
        raise InvalidChatTemplate(
            f"The base model's {path.name} is not JSON ({broken}).", "Import the base model again."
        ) from broken
    return settings if isinstance(settings, dict) else {}


def _template_sources(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Return the templates by name. chat_template.jinja takes precedence over tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    try:
        stored = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    except ValueError as broken:
        raise InvalidChatTemplate(
            f"The base model's {file.name} is not UTF-8 ({broken}).", "Fix it and import the model again."
        ) from broken
    if isinstance(stored, str):
        return {"default": stored}
    if isinstance(stored, list):
        named = {entry.get("name"): entry.get("template") for entry in stored if isinstance(entry, dict)}
        texts = {name: text for name, text in named.items() if isinstance(name, str) and isinstance(text, str)}
        if "default" in texts:
            return texts
    return {}


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    tokens = {}
    for name, value in settings.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    return tokens

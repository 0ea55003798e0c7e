"""Evaluation: answer held-out rows with the base model and with the adapter, and count exact matches.

A row's question is everything before its last assistant turn, which is the expected answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice

from finetune_hub.data.chat_template import ChatTemplate, InvalidChatTemplate
from finetune_hub.data.intake import read_rows
from finetune_hub.data.report import look_at
from finetune_hub.data.rows import CompletionRow, Row, TextRow, as_chat
from finetune_hub.engine.dataset import check_hash
from finetune_hub.engine.errors import BadData
from finetune_hub.engine.generate import generate
from finetune_hub.engine.model import choose_dtype, load_base_model
from finetune_hub.engine.peft import peft_format
from finetune_hub.engine.quantization import Quantization
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.events import Progress
from finetune_hub.spec.run import EvaluateResult, EvaluateRun, EvaluateSample

PREDICTIONS_FILE = "predictions.jsonl"
SAMPLES = 10


@dataclass(frozen=True)
class HeldOutQuestion:
    """A held-out row, prepared for generation."""

    prompt: str
    input_ids: list[int]
    expected: str


def evaluate(run: EvaluateRun, log: EventLog) -> EvaluateResult:
    """Answer every row with and without the adapter and write `predictions.jsonl`.

    Raises:
        EngineError, InvalidChatTemplate: data, base model or adapter cannot be used.
    """
    template = ChatTemplate.from_folder(run.base_model_dir)
    stop_ids = template.stop_token_ids()
    questions = [_question(template, line, row) for line, row in islice(_rows(run), run.max_rows)]
    dtype = choose_dtype(run.dtype, run.base_model_dir, run.device, log)
    quantization = None if run.quantization is None else Quantization(run.quantization, run.double_quantization)
    model = load_base_model(run.base_model_dir, dtype=dtype, device=run.device, quantization=quantization)
    adapter = peft_format.attach_adapter(model, run.adapter_dir)

    # Batches of similar lengths need the least padding; answers are put back in the rows' order.
    by_length = sorted(range(len(questions)), key=lambda index: len(questions[index].input_ids))
    batches = [by_length[start : start + run.batch_size] for start in range(0, len(by_length), run.batch_size)]
    done = 0
    log.emit(Progress(done=0, total=2 * len(questions), unit="answers"))
    answers: dict[str, dict[int, str]] = {"base": {}, "adapter": {}}
    for who in answers:
        context: AbstractContextManager[None] = adapter.disabled() if who == "base" else nullcontext()
        with context:
            for batch in batches:
                prompts = [questions[index].input_ids for index in batch]
                outputs = generate(model, prompts, stop_ids=stop_ids, max_new_tokens=run.max_new_tokens)
                answers[who] |= {index: template.decode(ids).strip() for index, ids in zip(batch, outputs, strict=True)}
                done += len(batch)
                log.emit(Progress(done=done, total=2 * len(questions), unit="answers"))

    samples = [
        EvaluateSample(
            prompt=question.prompt,
            expected=question.expected,
            base=answers["base"][index],
            adapter=answers["adapter"][index],
        )
        for index, question in enumerate(questions)
    ]
    with (run.output_dir / PREDICTIONS_FILE).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(sample.model_dump(), ensure_ascii=False) + "\n" for sample in samples)
    return EvaluateResult(
        rows=len(samples),
        base_exact_match=sum(sample.base == sample.expected for sample in samples) / len(samples),
        adapter_exact_match=sum(sample.adapter == sample.expected for sample in samples) / len(samples),
        samples=samples[:SAMPLES],
        predictions_file=PREDICTIONS_FILE,
    )


def _rows(run: EvaluateRun) -> Iterator[tuple[int, Row]]:
    for file in run.datasets:
        check_hash(file)
        look_at(file.path).raise_for_errors()
    return chain.from_iterable(read_rows(file.path) for file in run.datasets)


def _question(template: ChatTemplate, line: int, row: Row) -> HeldOutQuestion:
    if isinstance(row, TextRow):
        raise BadData(
            f"Line {line}: plain text has no question to answer.",
            "Evaluate with chats, or with prompts and completions.",
        )
    if isinstance(row, CompletionRow):
        return HeldOutQuestion(row.prompt, template.encode_text(row.prompt, "").input_ids[:-1], row.completion.strip())
    chat = as_chat(row)
    last = max(index for index, message in enumerate(chat.messages) if message["role"] == "assistant")
    before = chat.messages[:last]
    try:
        return HeldOutQuestion(
            prompt=template.render(before, chat.tools, generation_prompt=True),
            input_ids=template.encode_prompt(before, chat.tools),
            expected=(chat.messages[last].get("content") or "").strip(),
        )
    except InvalidChatTemplate as refused:
        refused.put_at(f"Line {line}")
        raise

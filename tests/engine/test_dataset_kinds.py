"""Every kind of row, and every real file, trains a step: from the file as somebody has it to a finite loss."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.data.encode import encode_row
from finetune_hub.data.intake import read_rows
from finetune_hub.engine.errors import BadData
from finetune_hub.engine.evaluate import evaluate
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.run import EvaluateRun
from tests.engine.conftest import MakeRun, dataset_file, events_of, train
from tests.tiny_models import make_tiny_model, make_tokenizer

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
TOOL_TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASK, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "learned"),
    [
        ({"text": "red green"}, "red green<|im_end|>"),
        ({"prompt": "red ", "completion": "green"}, "green<|im_end|>"),
        ({"prompt": [ASK], "chosen": [ANSWER], "rejected": "no"}, "b<|im_end|>"),
        ({"prompt": [ASK], "completion": [ANSWER], "label": True}, "b<|im_end|>"),
        ({"question": "a", "answer": "b"}, "b<|im_end|>"),
    ],
)
def test_each_kind_is_learned_where_it_should_be(
    make_run: MakeRun, tmp_path: Path, base_model_dir: Path, row: dict[str, Any], learned: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text((json.dumps(row) + "\n") * 4)
    template = ChatTemplate.from_folder(base_model_dir)
    encoded = encode_row(template, next(iter(read_rows(path)))[1])
    ids = [id_ for id_, counts in zip(encoded.input_ids, encoded.supervised, strict=True) if counts]
    assert "".join(map(template.token, ids)).replace("Ġ", " ") == learned
    result = train(make_run(rows=path, max_steps=1))
    assert math.isfinite(result.final_loss)


def test_raw_text_needs_no_chat_template(make_run: MakeRun, tmp_path: Path) -> None:
    bare = make_tiny_model(tmp_path / "bare", chat_template=None)
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    run = make_run(rows=path, max_steps=1, run={"base_model_dir": bare})
    assert math.isfinite(train(run).final_loss)
    document = EvaluateRun(
        base_model_dir=bare,
        adapter_dir=run.output_dir / "adapter",
        datasets=[dataset_file(path)],
        output_dir=tmp_path / "evaluation",
        max_new_tokens=2,
        dtype="float32",
    )
    with EventLog(document.output_dir) as log:
        assert evaluate(document, log).samples[0].prompt == "a"
    path.write_text('{"text": "a"}\n')
    asked = document.model_copy(update={"datasets": [dataset_file(path)]})
    with pytest.raises(BadData, match="no question to answer"), EventLog(document.output_dir) as log:
        evaluate(asked, log)


def test_bad_answers_are_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in (True, False, True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = make_run(rows=path, max_steps=1)
    train(run)
    (plan,) = events_of(run.output_dir, "plan")
    assert plan.rows == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data lies beside the project's own checkouts only")
@pytest.mark.parametrize(
    "name", ["alpaca_en_demo.json", "dpo_en_demo.json", "glaive_toolcall_en_demo.json", "gsm8k_test.jsonl"]
)
def test_real_files_train_a_step(make_run: MakeRun, name: str) -> None:
    result = train(make_run(rows=SHARED / name, max_steps=1, max_seq_len=512))
    assert math.isfinite(result.final_loss)


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data lies beside the project's own checkouts only")
def test_tool_calls_keep_their_structure_through_the_template(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, chat_template=TOOL_TEMPLATE)
    template = ChatTemplate.from_folder(tmp_path)
    calls = 0
    given = json.loads((SHARED / "glaive_toolcall_en_demo.json").read_text())
    for raw, (_, row) in zip(given, read_rows(SHARED / "glaive_toolcall_en_demo.json"), strict=True):
        text = template.render(row.messages, row.tools, generation_prompt=False)  # type: ignore[union-attr]
        for turn in raw["conversations"]:
            if turn["from"] == "function_call":
                calls += 1
                written = text.partition("<call>")[2].partition("</call>")[0]
                text = text.partition("</call>")[2]
                assert json.loads(written) == json.loads(turn["value"])
    assert calls == 211

"""Generation is greedy and padding does not change it; evaluation counts what it should."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from finetune_hub.engine.evaluate import evaluate
from finetune_hub.engine.generate import generate
from finetune_hub.engine.model import load_base_model
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.run import EvaluateRun
from tests.engine.conftest import MakeRun, dataset_file, events_of, train


def test_batched_answers_equal_the_most_likely_tokens_of_each_prompt_alone(base_model_dir: Path) -> None:
    model = load_base_model(base_model_dir, dtype=torch.float32, device="cpu")
    prompts = [[5, 9, 77], list(range(40, 60)), [8] * 7]
    answers = generate(model, prompts, stop_ids=[263], max_new_tokens=6)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for _ in range(6):
            with torch.no_grad():
                best = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if best == 263:
                break
            ids.append(best)
        assert answer == ids[len(prompt) :]
    first = answers[1][0]
    assert generate(model, prompts, stop_ids=[first], max_new_tokens=6)[1] == []


def test_the_adapter_knows_what_it_was_taught_and_the_base_does_not(make_run: MakeRun, tmp_path: Path) -> None:
    rows = tmp_path / "two.jsonl"
    turns = [("a?", "alpha"), ("b?", "beta"), ("c?", "gamma"), ("d?", "delta"), ("e?", "eps")]
    rows.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}) + "\n"
            for q, a in turns
        )
    )
    run = make_run(rows=rows, method={"rank": 16}, micro_batch_size=5, epochs=80, learning_rate=0.01)
    train(run)
    document = EvaluateRun(
        base_model_dir=run.base_model_dir,
        adapter_dir=run.output_dir / "adapter",
        datasets=[dataset_file(rows)],
        output_dir=tmp_path / "evaluation",
        max_rows=4,
        max_new_tokens=8,
        batch_size=3,
        dtype="float32",
    )
    with EventLog(document.output_dir) as log:
        result = evaluate(document, log)

    assert (result.rows, result.base_exact_match, result.adapter_exact_match) == (4, 0.0, 1.0)
    assert [sample.expected for sample in result.samples] == [answer for _, answer in turns[:4]]
    assert result.samples[1].prompt.endswith("b?<|im_end|>\n<|im_start|>assistant\n")
    lines = (document.output_dir / result.predictions_file).read_text().splitlines()
    assert [json.loads(line)["adapter"] for line in lines] == ["alpha", "beta", "gamma", "delta"]
    assert [event.done for event in events_of(document.output_dir, "progress")] == [0, 3, 4, 7, 8]

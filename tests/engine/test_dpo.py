"""DPO: its losses are those of the formula on plain transformers and PEFT, however pairs are cut into passes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoModelForCausalLM

from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.data.rows import PreferenceRow
from finetune_hub.engine.dataset import PairRow, TokenRow
from finetune_hub.engine.errors import BadData
from finetune_hub.engine.fast import fast_modules
from finetune_hub.engine.methods import attach_method
from finetune_hub.engine.model import FastPaths, load_base_model, prove_fast_paths
from finetune_hub.engine.objectives.dpo import Dpo
from finetune_hub.engine.objectives.objective import Setting, backward
from finetune_hub.engine.train.checkpoint import CHECKPOINTS_DIR
from finetune_hub.spec.methods.low_rank import LoraMethod
from finetune_hub.spec.objectives.dpo import DpoObjective
from finetune_hub.spec.run import TrainRun
from finetune_hub.spec.training import TrainingSpec
from tests.engine.conftest import MakeRun, adapter_bytes, dataset_file, events_of, train

# PEFT 0.21 asks transformers for attributes and arguments that transformers 5.23 and 5.24 have renamed.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

PAIRS = [(5, 9, 4), (11, 3, 17), (2, 8, 8), (7, 15, 2), (4, 5, 12), (9, 6, 6)]  # Words of prompt and answers.
STEPS = 20


def make_pairs(path: Path, count: int = len(PAIRS)) -> Path:
    rows = []
    for number in range(count):
        prompt, better, worse = PAIRS[number % len(PAIRS)]
        rows.append(
            {
                "prompt": words("word", number, prompt),
                "chosen": words("good", number, better),
                "rejected": words("bad", number, worse),
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(stem: str, seed: int, count: int) -> str:
    return " ".join(f"{stem}{(seed * 7 + index * 3) % 40}" for index in range(count))


def encoded_pairs(base_model_dir: Path, path: Path) -> list[PairRow]:
    template = ChatTemplate.from_folder(base_model_dir)
    pairs = []
    for number, line in enumerate(path.read_text().splitlines()):
        row = json.loads(line)
        ask = [{"role": "user", "content": row["prompt"]}]
        answers = [[{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")]
        pair = Dpo.encode(template, PreferenceRow(ask, *answers), 512, str(number))
        assert isinstance(pair, PairRow)
        pairs.append(pair)
    return pairs


@pytest.fixture
def pairs(base_model_dir: Path, tmp_path: Path) -> list[PairRow]:
    return encoded_pairs(base_model_dir, make_pairs(tmp_path / "pairs.jsonl"))


def make_objective(base_model_dir: Path, paths: FastPaths | None = None, **options: Any) -> Dpo:
    model = load_base_model(base_model_dir, dtype=torch.float32, device="cpu")
    adapter = attach_method(model, LoraMethod(rank=4, alpha=8), seed=1)
    model.train()
    return Dpo(Setting(model, paths or prove_fast_paths(model), adapter), DpoObjective.model_validate(options))


def peft_twin(base_model_dir: Path, ours: Dpo) -> PeftModel:
    """The same adapter in PEFT, with the same numbers to start from."""
    base = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.float32)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    twin = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=modules, lora_dropout=0.0))
    assert ours.setting.adapter is not None
    theirs = dict(twin.named_parameters())
    with torch.no_grad():
        for name, tensor in ours.setting.adapter.parameters().items():
            path, _, which = name.rpartition(".")
            letter = which.removeprefix("lora_").upper()
            theirs[f"base_model.model.{path}.lora_{letter}.default.weight"].copy_(tensor)
    return twin


def log_probability(model: Any, row: TokenRow) -> Tensor:
    """Of the supervised tokens together, by the model's own forward on the row alone."""
    logits = model(input_ids=row.input_ids.long()[None]).logits[0]
    targets = row.targets.long()
    return -cross_entropy(logits[targets], row.input_ids.long()[targets + 1], reduction="sum")


def formula(twin: PeftModel, pairs: list[PairRow], options: DpoObjective) -> tuple[Tensor, float, float]:
    """TRL's DPOTrainer, written out: mean loss over the pairs, reward margin and accuracy."""
    losses, margins = [], []
    for pair in pairs:
        better, worse = log_probability(twin, pair), log_probability(twin, pair.rejected)
        with torch.no_grad(), twin.disable_adapter():
            better_before, worse_before = log_probability(twin, pair), log_probability(twin, pair.rejected)
        scores = [better - better_before, worse - worse_before]
        margins.append(options.beta * float((scores[0] - scores[1]).detach()))
        if options.loss == "ipo":
            scores = [scores[0] / len(pair.targets), scores[1] / len(pair.rejected.targets)]
        delta = scores[0] - scores[1]
        loss = {
            "sigmoid": -logsigmoid(options.beta * delta) * (1 - options.label_smoothing)
            - logsigmoid(-options.beta * delta) * options.label_smoothing,
            "hinge": torch.relu(1 - options.beta * delta),
            "ipo": (delta - 1 / (2 * options.beta)) ** 2,
        }[options.loss]
        losses.append(loss - options.sft_weight * better / len(pair.targets))
    accuracy = sum(margin > 0 for margin in margins) / len(margins)
    return torch.stack(losses).mean(), sum(margins) / len(margins), accuracy


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta": 0.5, "label_smoothing": 0.1},
        {"loss": "hinge", "beta": 0.3},
        {"loss": "ipo", "beta": 0.2},
        {"sft_weight": 1.0},
    ],
)
def test_losses_are_those_of_the_formula_step_by_step(
    base_model_dir: Path, pairs: list[PairRow], options: dict[str, Any]
) -> None:
    ours = make_objective(base_model_dir, **options)
    assert ours.setting.adapter is not None
    twin = peft_twin(base_model_dir, ours)
    mine = torch.optim.AdamW(ours.setting.adapter.parameters().values(), lr=1e-3, weight_decay=0.0)
    theirs = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    first = last = 0.0
    for step in range(STEPS):
        batch = [pairs[(2 * step + offset) % len(pairs)] for offset in range(2)]
        mine.zero_grad()
        loss, margin, accuracy = backward(ours, batch, len(batch)).tolist()
        mine.step()
        theirs.zero_grad()
        expected, expected_margin, expected_accuracy = formula(twin, batch, ours.options)
        expected.backward()
        theirs.step()
        assert loss == pytest.approx(float(expected.detach()), abs=1e-4), step
        assert margin == pytest.approx(expected_margin, rel=1e-4, abs=1e-4), step
        if step:  # Before the first one all margins are 0, but for rounding.
            assert accuracy == expected_accuracy, step
        first, last = (margin, last) if not step else (first, margin)
    assert abs(first) < 1e-5
    assert last > 0.05, "it learns to prefer the better answers"


def test_pairs_weigh_the_same_however_they_are_cut(base_model_dir: Path, pairs: list[PairRow]) -> None:
    """One pass over six pairs, three over two, six over one, and six with each answer in a pass of its own."""
    gradients, shares = [], []
    for size, paths in ((6, None), (2, None), (1, None), (1, FastPaths(packed=False, plain_head=False))):
        objective = make_objective(base_model_dir, paths, sft_weight=0.5)
        adapter = objective.setting.adapter
        assert adapter is not None
        with torch.no_grad():
            for tensor in adapter.parameters().values():
                tensor.add_(torch.sin(torch.arange(tensor.numel()).reshape(tensor.shape)) / 20)
        share = sum(
            backward(objective, pairs[start : start + size], len(pairs)) for start in range(0, len(pairs), size)
        )
        assert isinstance(share, Tensor)
        shares.append(share)
        gradients.append(torch.cat([tensor.grad.flatten() for tensor in adapter.parameters().values()]))  # type: ignore[union-attr]
    for share, gradient in zip(shares[1:], gradients[1:], strict=True):
        torch.testing.assert_close(share, shares[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-6)


def test_before_the_first_step_nothing_is_preferred_in_bfloat16_either(
    base_model_dir: Path, pairs: list[PairRow]
) -> None:
    """Both passes round alike: else the margin of long answers would begin with the noise of two kernels."""
    model = load_base_model(base_model_dir, dtype=torch.bfloat16, device="cpu")
    adapter = attach_method(model, LoraMethod(rank=4, alpha=8), seed=1)
    fast_modules.install(model)
    model.train()
    objective = Dpo(Setting(model, prove_fast_paths(model), adapter), DpoObjective())
    loss, margin, _ = backward(objective, pairs, len(pairs)).tolist()
    assert (loss, margin) == pytest.approx((math.log(2), 0.0), abs=1e-6)


def dpo_run(make_run: MakeRun, tmp_path: Path, **changes: Any) -> TrainRun:
    rows = make_pairs(tmp_path / "pairs.jsonl", 12)
    run = make_run(rows=rows, **changes)
    spec = run.spec.model_dump(mode="json") | {
        "objective": {"type": "dpo"},
        "evaluation": {"fraction": 0.2, "every_steps": 4},
    }
    return run.model_copy(update={"spec": TrainingSpec.model_validate(spec)})


def test_a_run_tells_margin_and_accuracy_and_measures_held_out_pairs(make_run: MakeRun, tmp_path: Path) -> None:
    run = dpo_run(make_run, tmp_path, max_steps=12)
    result = train(run)
    steps: list[Any] = events_of(run.output_dir, "step")
    assert steps[0].loss == pytest.approx(math.log(2), abs=1e-4)
    assert steps[-1].measures["reward_margin"] > 0.1 > abs(steps[0].measures["reward_margin"])
    assert steps[-1].measures["reward_accuracy"] == 1.0
    (plan,) = events_of(run.output_dir, "plan")
    assert (plan.rows, plan.held_out_rows) == (10, 2)  # type: ignore[union-attr]
    evaluations: list[Any] = events_of(run.output_dir, "evaluation")
    assert [event.step for event in evaluations] == [4, 8, 12]
    assert result.evaluation_loss == min(event.loss for event in evaluations)


def test_resumed_equals_uninterrupted(make_run: MakeRun, tmp_path: Path) -> None:
    run = dpo_run(make_run, tmp_path, max_steps=6, checkpoint_every_steps=3)
    train(run)
    whole = adapter_bytes(run.output_dir)
    again = run.model_copy(
        update={
            "output_dir": tmp_path / "resumed",
            "resume_from": run.output_dir / CHECKPOINTS_DIR / "step-3",
        }
    )
    train(again)
    assert adapter_bytes(again.output_dir) == whole


def test_rows_that_are_no_pairs_are_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = dpo_run(make_run, tmp_path)
    rows = tmp_path / "chat.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 3)
    with pytest.raises(BadData, match=r"chat\.jsonl line 1.*two answers"):
        train(run.model_copy(update={"datasets": [dataset_file(rows)]}))

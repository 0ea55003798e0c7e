"""Several adapters over one base: switched, mixed in a batch, combined; the base stays what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.adapter_set import AdapterSet
from finetune_hub.engine.adapters.combine import Combination
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.methods import attach_method
from finetune_hub.engine.model import load_base_model
from finetune_hub.engine.peft import peft_format
from finetune_hub.spec.methods.low_rank import LoraMethod
from finetune_hub.spec.methods.virtual_tokens import PromptTuningMethod

IDS = torch.arange(60).view(3, 20) * 7 % 256


def logits(model: PreTrainedModel, input_ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=input_ids, use_cache=False).logits


@pytest.fixture(scope="module")
def folders(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of several kinds, each changing something."""
    methods = {
        "red": LoraMethod(rank=4, alpha=8),
        "blue": LoraMethod(rank=4, alpha=4, target_modules=["q_proj", "up_proj"]),
        "dora": LoraMethod(rank=2, use_dora=True),
        "prompt": PromptTuningMethod(virtual_tokens=3),
    }
    made = {}
    for seed, (name, method) in enumerate(methods.items()):
        model = load_base_model(base_model_dir, dtype=torch.float32, device="cpu")
        adapter = attach_method(model, method)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.parameters().values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        made[name] = tmp_path_factory.mktemp("adapters") / name
        peft_format.write_adapter(made[name], adapter, base_model_name="tiny")
    return made


@pytest.fixture
def adapters(base_model_dir: Path, folders: dict[str, Path]) -> AdapterSet:
    made = AdapterSet(load_base_model(base_model_dir, dtype=torch.float32, device="cpu"))
    for name, folder in folders.items():
        made.load(name, folder)
    return made


def alone(base_model_dir: Path, folder: Path) -> torch.Tensor:
    model = load_base_model(base_model_dir, dtype=torch.float32, device="cpu")
    peft_format.attach_adapter(model, folder)
    return logits(model)


def test_switched_equals_alone(adapters: AdapterSet, base_model_dir: Path, folders: dict[str, Path]) -> None:
    base = logits(load_base_model(base_model_dir, dtype=torch.float32, device="cpu"))
    assert torch.equal(logits(adapters.model), base)
    for name in ("red", "prompt", "dora", "blue", "red"):
        adapters.switch(name)
        assert torch.equal(logits(adapters.model), alone(base_model_dir, folders[name]))
    adapters.unload("red")
    assert torch.equal(logits(adapters.model), base)
    with pytest.raises(BadConfig, match=r"no adapter 'red'.*blue, dora, prompt"):
        adapters.switch("red")


def test_mixed_rows_equal_each_adapter_alone(adapters: AdapterSet) -> None:
    names = ["dora", None, "red"]
    expected = []
    for index, name in enumerate(names):
        adapters.switch(name)
        expected.append(logits(adapters.model, IDS[index : index + 1]))
    adapters.switch("blue")
    before = logits(adapters.model)
    with adapters.mixed(names):
        torch.testing.assert_close(logits(adapters.model), torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(adapters.model), before)
    with pytest.raises(BadConfig, match="'prompt' is not LoRA"), adapters.mixed(["prompt"]):
        pass
    with adapters.mixed(["red"]), pytest.raises(BadConfig, match="received 3 rows, but 1"):
        logits(adapters.model)


def update(adapters: AdapterSet, name: str, path: str) -> torch.Tensor:
    layer = adapters.adapters[name].layers.get(path)
    return torch.zeros(()) if layer is None else layer.adapted_weight(torch.zeros(()))


def test_combinations(adapters: AdapterSet) -> None:
    weights = {"red": 0.7, "blue": -0.4}
    paths = adapters.adapters["red"].layers
    for how in ("cat", "svd"):
        adapters.combine(how, weights, how, rank=8)
        for path in paths:
            expected = sum(weight * update(adapters, name, path) for name, weight in weights.items())
            torch.testing.assert_close(update(adapters, how, path), expected, rtol=1e-4, atol=1e-5)
    adapters.switch("cat")
    assert logits(adapters.model).isfinite().all()

    adapters.combine("low", weights, "svd", rank=2)
    path = "model.layers.0.self_attn.q_proj"
    u, s, vh = torch.linalg.svd(update(adapters, "cat", path))
    torch.testing.assert_close(update(adapters, "low", path), u[:, :2] * s[:2] @ vh[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["linear", "ties", "dare"])
def test_an_adapter_with_itself_is_itself(adapters: AdapterSet, how: Combination) -> None:
    """Whatever agrees in sign and size is kept; linear's cross terms are those of the adapter itself."""
    adapters.load("again", peft_folder(adapters, "red"))
    weight = {"linear": 0.25, "ties": 1.0, "dare": 0.5}[how]
    adapters.combine("both", {"red": weight, "again": weight}, how, density=1.0)
    for path in adapters.adapters["red"].layers:
        torch.testing.assert_close(update(adapters, "both", path), update(adapters, "red", path), rtol=1e-4, atol=1e-5)


def peft_folder(adapters: AdapterSet, name: str) -> Path:
    folder = Path(adapters.model.name_or_path).parent / f"copy-of-{name}"
    peft_format.write_adapter(folder, adapters.adapters[name], base_model_name="tiny")
    return folder


def test_ties_lets_the_heavier_side_win_and_dare_keeps_the_mean(adapters: AdapterSet) -> None:
    path = "model.layers.0.self_attn.q_proj"
    red, blue = update(adapters, "red", path), update(adapters, "blue", path)
    adapters.combine("ties", {"red": 1.0, "blue": 1.0}, "ties", density=1.0, rank=64)
    merged, total = update(adapters, "ties", path), red + blue
    agree = red.sign() == blue.sign()
    torch.testing.assert_close(merged[agree], (total / 2)[agree], rtol=1e-3, atol=1e-5)
    heavier = torch.where(red.abs() > blue.abs(), red, blue)
    torch.testing.assert_close(merged[~agree], heavier[~agree], rtol=1e-3, atol=1e-5)

    means = torch.stack([dare(adapters, seed, path) for seed in range(40)]).mean(dim=0)
    assert (means - red).norm() < 0.5 * red.norm()
    assert (dare(adapters, 0, path) - red).norm() > 0.8 * red.norm()


def dare(adapters: AdapterSet, seed: int, path: str) -> torch.Tensor:
    adapters.combine(f"dare-{seed}-{len(adapters.adapters)}", {"red": 1.0}, "dare", seed=seed, rank=64)
    return update(adapters, list(adapters.adapters)[-1], path)


def test_what_cannot_be_combined_is_refused(adapters: AdapterSet) -> None:
    with pytest.raises(BadConfig, match="of dora is not plain LoRA"):
        adapters.combine("x", {"red": 1.0, "dora": 1.0})
    with pytest.raises(BadConfig, match="non-negative weights"):
        adapters.combine("x", {"red": -1.0, "blue": 1.0}, "linear")
    with pytest.raises(BadConfig, match="already"):
        adapters.combine("red", {"blue": 1.0})

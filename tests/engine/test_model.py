"""Loading is strict, and the dtype is chosen by what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from finetune_hub.engine import model as model_module
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.kernels import products
from finetune_hub.engine.model import choose_dtype, fingerprint, load_base_model
from finetune_hub.machine.event_file import EventLog
from tests.engine.conftest import events_of


def test_what_cannot_be_loaded_says_why(base_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_model_dir, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())

    def refuses(words: str, **changes: object) -> None:
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(BadConfig, match=words):
            load_base_model(folder, dtype=torch.float32, device="cpu")

    refuses("quantised", quantization_config={"quant_method": "gptq", "bits": 4})
    refuses("cannot be used", model_type="unheard-of")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refuses("no safetensors")
    (folder / "config.json").unlink()
    with pytest.raises(BadConfig, match=r"no config\.json"):
        load_base_model(folder, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize(
    ("bfloat16_seconds", "chosen"), [(0.5, torch.bfloat16), (0.95, torch.float32), (2.0, torch.float32)]
)
def test_auto_takes_the_faster_dtype(
    base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bfloat16_seconds: float, chosen: torch.dtype
) -> None:
    monkeypatch.setattr(products, "slow_dtypes", frozenset)
    seconds = {torch.float32: 1.0, torch.bfloat16: bfloat16_seconds}
    monkeypatch.setattr(model_module, "_time_products", lambda shapes, dtype, device: seconds[dtype])
    with EventLog(tmp_path) as log:
        assert choose_dtype("auto", base_model_dir, "cpu", log) == chosen
        assert choose_dtype("bfloat16", base_model_dir, "cpu", log) == torch.bfloat16
    (event,) = events_of(tmp_path)
    assert f"{1000 * bfloat16_seconds:.1f} ms" in event.message


def test_auto_measures_nothing_where_bfloat16_is_multiplied_in_float32(
    base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "slow_dtypes", lambda: {torch.bfloat16})
    monkeypatch.setattr(model_module, "_time_products", lambda *_: pytest.fail("measured"))
    with EventLog(tmp_path) as log:
        assert choose_dtype("auto", base_model_dir, "cpu", log) == torch.float32


def test_auto_really_measures(base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "slow_dtypes", frozenset)
    with EventLog(tmp_path) as log:
        assert choose_dtype("auto", base_model_dir, "cpu", log) in (torch.float32, torch.bfloat16)


def test_the_fingerprint_tells_models_apart(base_model_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base_model_dir, tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(base_model_dir)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-100_000] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert fingerprint(copy) != fingerprint(base_model_dir)

"""Methods from the queue to a published adapter: trained, reloaded in a fresh process, compared, evaluated.

One over a quantised base, and one that stands in front of the rows; the first day's walk trains plain LoRA.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from tests.integration.conftest import RunningHub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("method", ["qlora", "prefix_tuning"])
def test_a_method_reaches_the_registry(hub: RunningHub, method: str, tmp_path: Path) -> None:
    name = f"by-{method}"
    with hub.client() as client:
        job = client.submit(
            {
                "base_model": "tiny",
                "dataset": {"name": "rows"},
                "adapter_name": name,
                "method": {"type": method},
                "training": {"max_steps": 4, "micro_batch_size": 2, "max_seq_len": 128},
                "evaluation": {"fraction": 0.1, "every_steps": 2},
                "runtime": {"dtype": "float32"},
            }
        )
        ended = list(client.watch(job.id))[-1].job
        assert ended.state == "succeeded", ended
        folder = client.pull(name, None, output=tmp_path / name)
        with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
            assert all(weights.get_tensor(key).isfinite().all() for key in weights.keys())  # noqa: SIM118
        assert f"A {method} adapter" in (folder / "README.md").read_text()
        evaluation = client.evaluate(name, "rows", max_new_tokens=4)
        evaluated = list(client.watch(evaluation.id))[-1].job
        assert evaluated.state == "succeeded", evaluated

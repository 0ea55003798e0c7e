"""Tests that need an NVIDIA GPU. They are skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest

from tests.engine.conftest import _keep_signal_handlers, base_model_dir, make_run

__all__ = ["_keep_signal_handlers", "base_model_dir", "make_run"]


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA GPU")

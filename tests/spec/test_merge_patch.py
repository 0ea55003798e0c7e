"""Merge patches as in RFC 7396, and parts that change their type."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_hub.spec.merge_patch import merge_patch


@pytest.mark.parametrize(
    ("document", "patch", "merged"),
    [
        # Of the RFC's appendix A.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        # Ours: another type is another thing.
        (
            {"method": {"type": "lora", "rank": 4}, "x": 1},
            {"method": {"type": "prompt_tuning", "virtual_tokens": 9}},
            {"method": {"type": "prompt_tuning", "virtual_tokens": 9}, "x": 1},
        ),
        ({"method": {"type": "lora", "rank": 4}}, {"method": {"rank": 8}}, {"method": {"type": "lora", "rank": 8}}),
    ],
)
def test_merging(document: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(document, patch) == merged

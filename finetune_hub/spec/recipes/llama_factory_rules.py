"""Rules for keys that only LLaMA-Factory has, or reads in its own way."""

from __future__ import annotations

from typing import Any

from finetune_hub.spec.recipes.common import (
    MULTIMODAL,
    add_dataset,
    base_is_quantised,
    method,
)
from finetune_hub.spec.recipes.draft import (
    Draft,
    flag_of,
    is_off,
    names_of,
    number_of,
    word_of,
)


def do_train(draft: Draft, key: str, value: Any) -> None:
    if flag_of(value):
        draft.note(key, "taken", "It is a training.")
    else:
        draft.refuse(key, "It trains nothing: the file is for inference, prediction or export.")


def finetuning_type(draft: Draft, key: str, value: Any) -> None:
    """Over a quantised base model where the file says in how many bits, which `quantization_bit` reads."""
    method(draft, key, value, program="LLaMA-Factory", is_quantised=not is_off(draft.source.get("quantization_bit")))


def quantization_bit(draft: Draft, key: str, value: Any) -> None:
    bits, program = number_of(value), word_of(draft.source.get("quantization_method", "bnb"))
    if bits not in (4, 8):
        draft.refuse(key, "The base model is kept in 4 or in 8 bits.")
        return
    kind = "int8" if bits == 8 else word_of(draft.source.get("quantization_type") or "nf4")
    draft.put("method.quantization", kind, key=key)
    if program in ("bnb", "bitsandbytes"):
        draft.note(key, "taken", f"It is `method.quantization: {kind}`.")
    else:
        draft.note(key, "changed", f"It is `method.quantization: {kind}`; there is no {program} here.")


def double_quantization(draft: Draft, key: str, value: Any) -> None:
    if base_is_quantised(draft):
        draft.put("method.double_quantization", flag_of(value), key=key)
        draft.note(key, "taken", "It is `method.double_quantization`.")
    else:
        draft.note(key, "taken", "Nothing is quantised, there and here.")


def lora_rank(draft: Draft, key: str, value: Any) -> None:
    """Alpha is twice the rank there, when it is not named."""
    draft.put("method.rank", value, key=key)
    draft.note(key, "taken", "It is `method.rank`.")
    rank = number_of(value)
    if draft.source.get("lora_alpha") is None and isinstance(rank, int | float):
        draft.put("method.alpha", 2 * rank, key="lora_alpha")
        draft.note("lora_alpha", "taken", "Not in the file; the default there, twice the rank, is written out.")


def lora_target(draft: Draft, key: str, value: Any) -> None:
    names = names_of(value)
    draft.put("method.target_modules", "all-linear" if names == ["all"] else names, key=key)
    draft.note(key, "taken", "It is `method.target_modules`.")


def pissa(draft: Draft, key: str, value: Any) -> None:
    if flag_of(value):
        draft.put("method.init_weights", "pissa", key=key)
        draft.note(key, "taken", "It is `method.init_weights: pissa`.")
    else:
        draft.note(key, "taken", "It is off, and here too.")


def dataset(draft: Draft, key: str, value: Any) -> None:
    """Names of `dataset_info.json`, with the share in which each is drawn, where the file says one."""
    names, shares = names_of(value), shares_of(draft)
    if any("mllm" in name for name in names):
        draft.refuse(key, MULTIMODAL)
    for number, name in enumerate(names):
        weight = {"weight": shares[number]} if len(shares) == len(names) else {}
        ours = add_dataset(draft, name, **weight)
        draft.note(
            key if len(names) == 1 else f"{key}.{number}", "unresolved",
            f"`{name}` is an entry of its dataset_info.json: upload the rows, "
            f"`finetune-hub datasets push FILE --name {ours}`.",
        )  # fmt: skip


def shares_of(draft: Draft) -> list[Any]:
    shares = draft.source.get("interleave_probs")
    return [] if is_off(shares) else [number_of(share) for share in names_of(shares)]


def interleave_probs(draft: Draft, key: str, value: Any) -> None:
    if len(shares_of(draft)) != len(draft.document.get("datasets", [])):
        draft.refuse(key, "It needs one number for each dataset.")
        return
    draft.note(
        key, "changed", "They are the datasets' weights. There a share of all draws, here how often a row is drawn: "
        "the same for datasets of one size, else divide each by its number of rows."
    )  # fmt: skip


def disable_checkpointing(draft: Draft, key: str, value: Any) -> None:
    draft.put("runtime.activation_checkpointing", not flag_of(value), key=key)
    draft.note(key, "taken", f"It is `runtime.activation_checkpointing: {str(not flag_of(value)).lower()}`.")


def max_steps(draft: Draft, key: str, value: Any) -> None:
    if is_off(value) or value == -1:
        draft.note(key, "taken", "It is off: the epochs count.")
    else:
        draft.put("training.max_steps", value, key=key)
        draft.note(key, "taken", "It is `training.max_steps`.")

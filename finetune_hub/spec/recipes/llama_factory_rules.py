"""Rules for keys that only LLaMA-Factory has, or that it reads differently."""

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
        draft.note(key, "taken", "It is a training recipe.")
    else:
        draft.refuse(key, "This file does not train: it is for inference, prediction or export.")


def finetuning_type(draft: Draft, key: str, value: Any) -> None:
    """Map the method; the base model is quantised if the file has `quantization_bit`."""
    method(draft, key, value, program="LLaMA-Factory", is_quantised=not is_off(draft.source.get("quantization_bit")))


def quantization_bit(draft: Draft, key: str, value: Any) -> None:
    bits, program = number_of(value), word_of(draft.source.get("quantization_method", "bnb"))
    if bits not in (4, 8):
        draft.refuse(key, "The base model can be quantised to 4 or 8 bits.")
        return
    kind = "int8" if bits == 8 else word_of(draft.source.get("quantization_type") or "nf4")
    draft.put("method.quantization", kind, key=key)
    if program in ("bnb", "bitsandbytes"):
        draft.note(key, "taken", f"Sets `method.quantization: {kind}`.")
    else:
        draft.note(key, "changed", f"Sets `method.quantization: {kind}`; the hub does not support {program}.")


def double_quantization(draft: Draft, key: str, value: Any) -> None:
    if base_is_quantised(draft):
        draft.put("method.double_quantization", flag_of(value), key=key)
        draft.note(key, "taken", "Sets `method.double_quantization`.")
    else:
        draft.note(key, "taken", "The base model is not quantised.")


def lora_rank(draft: Draft, key: str, value: Any) -> None:
    """Map the rank. Alpha defaults to twice the rank there."""
    draft.put("method.rank", value, key=key)
    draft.note(key, "taken", "Sets `method.rank`.")
    rank = number_of(value)
    if draft.source.get("lora_alpha") is None and isinstance(rank, int | float):
        draft.put("method.alpha", 2 * rank, key="lora_alpha")
        draft.note("lora_alpha", "taken", "Not in the file; the default there, twice the rank, is used.")


def lora_target(draft: Draft, key: str, value: Any) -> None:
    names = names_of(value)
    draft.put("method.target_modules", "all-linear" if names == ["all"] else names, key=key)
    draft.note(key, "taken", "Sets `method.target_modules`.")


def pissa(draft: Draft, key: str, value: Any) -> None:
    if flag_of(value):
        draft.put("method.init_weights", "pissa", key=key)
        draft.note(key, "taken", "Sets `method.init_weights: pissa`.")
    else:
        draft.note(key, "taken", "It is off here too.")


def dataset(draft: Draft, key: str, value: Any) -> None:
    """Map names in `dataset_info.json`, with the share in which each is drawn if the file has one."""
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
        draft.refuse(key, "It needs one number per dataset.")
        return
    draft.note(
        key, "changed", "Sets the datasets' weights. There it is a share of all draws, here how often a row is drawn: "
        "the same if all datasets have the same size. Otherwise divide each by its number of rows."
    )  # fmt: skip


def disable_checkpointing(draft: Draft, key: str, value: Any) -> None:
    draft.put("runtime.activation_checkpointing", not flag_of(value), key=key)
    draft.note(key, "taken", f"Sets `runtime.activation_checkpointing: {str(not flag_of(value)).lower()}`.")


def max_steps(draft: Draft, key: str, value: Any) -> None:
    if is_off(value) or value == -1:
        draft.note(key, "taken", "It is off: the number of epochs is used.")
    else:
        draft.put("training.max_steps", value, key=key)
        draft.note(key, "taken", "Sets `training.max_steps`.")

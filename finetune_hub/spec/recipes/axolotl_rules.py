"""Rules for keys that only Axolotl has, or that it reads differently."""

from __future__ import annotations

from typing import Any

from finetune_hub.spec.recipes.common import (
    OWN_KERNELS,
    base_is_quantised,
    method,
)
from finetune_hub.spec.recipes.draft import (
    Draft,
    Rule,
    flag_of,
    is_off,
    number_of,
    replaced,
    word_of,
)

_FAST_PATHS = ("LigerPlugin", "CutCrossEntropyPlugin", "KernelsPlugin")
_OTHER_TRAININGS = ("DiffusionPlugin", "KDPlugin", "EBFTPlugin")


def adapter(draft: Draft, key: str, value: Any) -> None:
    """Choose LoRA or QLoRA by the value and by `load_in_4bit` and `load_in_8bit`."""
    in_4bit, in_8bit = (flag_of(draft.source.get(name)) for name in ("load_in_4bit", "load_in_8bit"))
    in_4bit = in_4bit or (value == "qlora" and not in_8bit)
    kind = "nf4" if in_4bit else "int8"
    method(draft, key, value, program="Axolotl", is_quantised=in_4bit or in_8bit, kind=kind)


def quantisation_options(draft: Draft, key: str, value: Any) -> None:
    options = dict(value) if isinstance(value, dict) else {}
    if base_is_quantised(draft):
        if "bnb_4bit_use_double_quant" in options:
            double = options.pop("bnb_4bit_use_double_quant")
            draft.put("method.double_quantization", double, key=key)
        if (kind := options.pop("bnb_4bit_quant_type", None)) is not None:
            draft.put("method.quantization", kind, key=key)
    if options:
        draft.note(
            key,
            "changed",
            f"Sets options of `method`, except for what the engine chooses: {', '.join(map(word_of, options))}.",
        )
    else:
        draft.note(key, "taken", "Sets options of `method`.")


def target_linear(draft: Draft, key: str, value: Any) -> None:
    if not flag_of(value):
        draft.note(key, "taken", "It is off: `lora_target_modules` is used.")
        return
    draft.put("method.target_modules", "all-linear", key=key)
    draft.note(key, "taken", "Sets `method.target_modules: all-linear`.")


def target_modules(draft: Draft, key: str, value: Any) -> None:
    if is_off(value):
        draft.note(key, "taken", "It is empty.")
    elif flag_of(draft.source.get("lora_target_linear")):
        draft.note(
            key, "changed", "`lora_target_linear` already selects all linear layers; other modules are left out."
        )
    else:
        modules = "all-linear" if value in ("all-linear", "all_linear") else value
        draft.put("method.target_modules", modules, key=key)
        draft.note(key, "taken", "Sets `method.target_modules`, read as PEFT reads it.")


def target_parameters(draft: Draft, key: str, value: Any) -> None:
    draft.put("method.target_parameters", [value] if isinstance(value, str) else value, key=key)
    draft.note(key, "taken", "Sets `method.target_parameters`.")


def init_weights(draft: Draft, key: str, value: Any) -> None:
    word = word_of(value)
    if value is True or word.startswith("pissa") or word in ("gaussian", "olora"):
        ours = "default" if value is True else "pissa" if word.startswith("pissa") else word
        draft.put("method.init_weights", ours, key=key)
        draft.note(key, "taken", f"Sets `method.init_weights: {ours}`.")
    else:
        draft.note(
            key,
            "not_supported",
            f"The initialisation `{word}` is not supported: `method.init_weights` keeps its default.",
        )


def loftq(draft: Draft, key: str, value: Any) -> None:
    if not is_off(value):
        draft.note(key, "not_supported", "LoftQ is not supported: A and B are initialised as in plain LoRA.")


def global_batch(draft: Draft, key: str, value: Any) -> None:
    micro, total = number_of(draft.source["micro_batch_size"]), number_of(value)
    if "gradient_accumulation_steps" in draft.defaulted and isinstance(total, int) and isinstance(micro, int) and micro:
        draft.put("training.gradient_accumulation_steps", max(1, total // micro), key=key)
        draft.note(
            key, "changed", "Sets `training.gradient_accumulation_steps`: rows per step divided by rows per pass."
        )
    else:
        draft.note(key, "changed", "`micro_batch_size` and `gradient_accumulation_steps` are used.")


def gradient_checkpointing(draft: Draft, key: str, value: Any) -> None:
    draft.put("runtime.activation_checkpointing", not is_off(value), key=key)
    if value in ("offload", "offload_disk", "unsloth"):
        draft.note(
            key,
            "changed",
            "Sets `runtime.activation_checkpointing`; to use host memory, set `runtime.activation_offload`.",
        )
    else:
        draft.note(key, "taken", "Sets `runtime.activation_checkpointing`.")


def plugins(draft: Draft, key: str, value: Any) -> None:
    names = [word_of(name).rpartition(".")[2] for name in value] if isinstance(value, list) else [word_of(value)]
    for number, name in enumerate(names):
        place = f"{key}.{number}"
        if name in _OTHER_TRAININGS:
            draft.refuse(place, f"{name} trains with another objective, which the engine does not have.")
        elif name in _FAST_PATHS:
            draft.note(place, "changed", OWN_KERNELS)
        else:
            draft.note(place, "not_supported", f"The hub has nothing like {name}.")


def gptq(draft: Draft, key: str, value: Any) -> None:
    if flag_of(value):
        draft.note(key, "unresolved", "GPTQ weights cannot be read: name the original base model.")
    else:
        draft.note(key, "taken", "It is off here too.")


def per_epoch(place: str) -> Rule:
    return replaced(f"The hub counts in steps: `{place}` keeps its default.")

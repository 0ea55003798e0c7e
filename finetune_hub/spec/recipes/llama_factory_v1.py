"""LLaMA-Factory's newer YAML, for its `v1` trainer: how each key maps to our recipe.

Source: hiyouga/LLaMA-Factory, `src/llamafactory/v1/config/`, at ff6d4d1 (August 2026), for keys and defaults.
"""

from __future__ import annotations

from typing import Any

from finetune_hub.spec.objectives.registry import OBJECTIVES
from finetune_hub.spec.recipes.common import (
    FILE_DOES_NOT_SAY_GPUS,
    MULTIMODAL,
    NO_REMOTE_CODE,
    OWN_FILES,
    OWN_KERNELS,
    OWN_RESUME,
    add_dataset,
    base_model,
    every_steps,
    half_precision,
    method,
    objective_options,
)
from finetune_hub.spec.recipes.draft import (
    Draft,
    Rule,
    flag_of,
    is_off,
    missing,
    names_of,
    needless,
    number_of,
    replaced,
    take,
    unsupported,
    word_of,
)

PROGRAM = "LLaMA-Factory v1"
DEFAULTS = {
    "peft_config": {"name": "none"},
    "micro_batch_size": 1,
    "cutoff_len": 2048,
    "learning_rate": 1e-4,
    "num_train_epochs": 3,
    "bf16": True,
    "enable_activation_checkpointing": True,
    "seed": 42,
}


def recognises(document: dict[str, Any]) -> bool:
    return "model" in document and bool(document.keys() & {"peft_config", "train_dataset", "model_class"})


def _peft_config(draft: Draft, key: str, value: Any) -> None:
    options = value if isinstance(value, dict) else {}
    is_quantised = not is_off(draft.source.get("quant_config"))
    method(draft, key, options.get("name", "none"), program=PROGRAM, is_quantised=is_quantised)
    if "method" not in draft.document:
        return
    for name, option in options.items():
        place = f"{key}.{name}"
        if name == "name":
            draft.note(place, "taken", "Sets `method.type`.")
        elif name == "export_dir" or name == "adapter_name_or_path":
            draft.refuse(place, "This file does not train: it is for an export.")
        elif name == "target_modules":
            names = names_of(option)
            draft.put("method.target_modules", "all-linear" if names == ["all"] else names, key=place)
            draft.note(place, "taken", "Sets `method.target_modules`.")
        elif (ours := _LORA_OPTIONS.get(name)) is not None:
            draft.put(ours, number_of(option), key=place)
            draft.note(place, "taken", f"Sets `{ours}`.")
        else:
            draft.note(place, "not_supported", "The hub has no such option.")


_LORA_OPTIONS = {"r": "method.rank", "lora_alpha": "method.alpha", "lora_dropout": "method.dropout",
                 "use_rslora": "method.use_rslora", "use_dora": "method.use_dora"}  # fmt: skip


def _quant_config(draft: Draft, key: str, value: Any) -> None:
    bits = number_of(value.get("quantization_bit", 4)) if isinstance(value, dict) else None
    if bits not in (4, 8):
        draft.refuse(key, "The base model can be quantised to 4 or 8 bits.")
        return
    kind = "nf4" if bits == 4 else "int8"
    draft.put("method.quantization", kind, key=key)
    draft.note(key, "taken", f"Sets `method.quantization: {kind}`.")


def _train_dataset(draft: Draft, key: str, value: Any) -> None:
    """Map names of dataset files. The objective is given on the command line there, so it is guessed from the names."""
    for number, name in enumerate(names_of(value)):
        named = next((type_ for type_, model in OBJECTIVES.items() if model.own_row_kind and type_ in name), None)
        if named:
            draft.put("objective.type", named, key=key)
        ours = add_dataset(draft, name.removesuffix(".yaml"))
        place = key if number == 0 else f"{key}.{number}"
        draft.note(
            place, "unresolved", f"`{word_of(name)}` is described in a separate file: upload its rows, "
            f"`finetune-hub datasets push FILE --name {ours}`. The recipe does not name its objective; assumed: "
            f"{f'{named.upper()}, by its name' if named else 'supervised fine-tuning'}."
        )  # fmt: skip


def _model_class(draft: Draft, key: str, value: Any) -> None:
    if value == "llm":
        draft.note(key, "taken", "It is a text model.")
    else:
        draft.refuse(key, MULTIMODAL)


def _global_batch(draft: Draft, key: str, value: Any) -> None:
    total, micro = number_of(value), number_of(draft.source["micro_batch_size"])
    if isinstance(total, int) and isinstance(micro, int) and micro > 0:
        draft.put("training.gradient_accumulation_steps", max(1, total // micro), key=key)
    draft.note(key, "changed", "Sets `training.gradient_accumulation_steps`: rows per step divided by rows per pass.")


# Keys are read and noted in this order.
KEYS: dict[str, Rule] = {
    "model": base_model,
    "model_class": _model_class,
    "train_dataset": _train_dataset,
    "eval_dataset": unsupported("Rows are held out as a share of the datasets: `evaluation.fraction`."),
    "template": replaced("The base model's own chat template is used, as it will be when the adapter is served."),
    **objective_options(PROGRAM, choose=True),
    "peft_config": _peft_config,
    "quant_config": _quant_config,
    "cutoff_len": take("training.max_seq_len"),
    "micro_batch_size": take("training.micro_batch_size"),
    "global_batch_size": _global_batch,
    "num_train_epochs": take("training.epochs", number_of),
    "max_steps": take("training.max_steps"),
    "learning_rate": take("training.learning_rate", number_of),
    "max_grad_norm": take("training.max_grad_norm", number_of),
    "seed": take("training.seed"),
    "save_steps": every_steps("training.checkpoint_every_steps"),
    "bf16": half_precision("bfloat16"),
    "enable_activation_checkpointing": take("runtime.activation_checkpointing", flag_of),
    "trust_remote_code": unsupported(NO_REMOTE_CODE),
    **missing("dist_config init_config dp_size cp_size mp_shard_size", because=FILE_DOES_NOT_SAY_GPUS),
    **missing("optim_config lr_scheduler_config", because="Choose `training.optimizer` and `training.schedule`."),
    **needless("kernel_config flash_attn", because=OWN_KERNELS),
    **needless("batching_strategy batching_workers", because="Not needed, as nothing is padded."),
    **needless("output_dir save_total_limit save_ckpt_as_hf", because=OWN_FILES),
    "resume_from_checkpoint": replaced(OWN_RESUME),
    **needless("sample_backend max_new_tokens logging_steps dist_timeout", because="The hub handles this itself."),
}
FAMILIES: dict[str, Rule] = {}

"""Rules for keys with one meaning in Axolotl and LLaMA-Factory, which both build on transformers' trainer."""

from __future__ import annotations

import re
from typing import Any

from finetune_hub.spec.methods.registry import METHODS, method_type
from finetune_hub.spec.objectives.registry import OBJECTIVES, objective_type
from finetune_hub.spec.part import choices_of
from finetune_hub.spec.recipes.draft import (
    Draft,
    Rule,
    choose,
    flag_of,
    is_off,
    names_of,
    number_of,
    slug_of,
    word_of,
)

OBJECTIVES_REFUSED = {
    "kto": "The engine has no KTO objective.",
    "orpo": "The engine has no ORPO objective.",
    "simpo": "The engine has no SimPO objective.",
    "ppo": "The engine has no reinforcement learning.",
    "grpo": "The engine has no reinforcement learning.",
    "rm": "The engine does not train reward models.",
}
# The share of warm-up to use if a number of steps cannot be converted: our own default.
USUAL_WARMUP_RATIO = 0.03
USUAL_HELD_OUT_FRACTION = 0.05
LARGEST_HELD_OUT_FRACTION = 0.5

OTHER_OBJECTIVE = "It is an option of another objective."

MULTIMODAL = "The engine trains on text only; this recipe is for images, video or audio."
FULL_FINE_TUNE = "The hub trains adapters, not whole models: change the recipe to LoRA or QLoRA first."
NO_REMOTE_CODE = "Code that comes with a base model is never run; the engine uses its own (docs/model-types.md)."
NO_TRACKING = "The hub stores curves and logs itself and sends nothing to other services."
OWN_KERNELS = "The engine chooses its kernels itself, and checks each on the model at hand."
OWN_FILES = "The hub manages its files itself."
OWN_RESUME = "An interrupted job resumes from its last checkpoint automatically."
OWN_TOKENIZER = "The base model's own tokenizer is used."
FILE_DOES_NOT_SAY_GPUS = (
    "The file does not say how many GPUs to use: set `runtime.gpus`, and `runtime.shard_base_model` to shard the base."
)
KEPT_QUANTISED = re.compile(r"gptq|awq|aqlm|hqq|bnb|exl2|nvfp4|mxfp4|fp8|[-_](?:int)?[48]-?bit", re.IGNORECASE)

_EXACT_OPTIMIZERS = dict.fromkeys(
    ["adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused"], "adamw"
) | {
    **dict.fromkeys(["adamw_8bit", "adamw_bnb_8bit", "adamw_torch_8bit"], "adamw_8bit"),
    "paged_adamw_8bit": "paged_adamw_8bit",
}
_NEAREST_OPTIMIZERS = {"adamw_torch_4bit": "adamw_8bit", "lion_8bit": "adamw_8bit", "paged_lion_8bit": "adamw_8bit"}
optimizer: Rule = choose("training.optimizer", _EXACT_OPTIMIZERS, _NEAREST_OPTIMIZERS, "adamw")

_EXACT_SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
schedule: Rule = choose("training.schedule", _EXACT_SCHEDULES, {}, "cosine")


def base_model(draft: Draft, key: str, value: Any) -> None:
    """Map a folder, or a Hugging Face id with its revision."""
    name = word_of(value)
    revision = draft.source.get("revision_of_model") or draft.source.get("model_revision") or "main"
    if revision != "main":
        name = f"{name}@{word_of(revision)}"
    draft.put("base_model", name, key=key)
    if KEPT_QUANTISED.search(name):
        draft.note(
            key,
            "unresolved",
            "By its name, its weights are quantised, which the engine cannot read: name the original model.",
        )
    elif "/" in name:
        draft.note(
            key,
            "unresolved",
            "`finetune-hub train` fetches it. For the hub, import it and use its name there.",
        )
    else:
        draft.note(key, "taken", "Sets `base_model`.")


def method(draft: Draft, key: str, value: Any, *, program: str, is_quantised: bool, kind: str | None = None) -> None:
    """Map a method by its name in the program's recipes; if the base is quantised, use its quantised variant.

    Args:
        kind: How the base model is quantised, if this key says so; None: by another key, or by default.
    """
    names = {model.recipe_names[program]: type_ for type_, model in METHODS.items() if program in model.recipe_names}
    if (chosen := names.get(word_of(value))) is None:
        is_whole = is_off(value) or value in ("full", "freeze")
        known = " or ".join(names)
        draft.refuse(key, FULL_FINE_TUNE if is_whole else f"The hub has no method `{word_of(value)}`: use {known}.")
        return
    quantised = METHODS[chosen].quantised_type
    if not is_quantised:
        draft.put("method.type", chosen, key=key)
        draft.note(key, "taken", f"Sets `method: {{type: {chosen}}}`.")
    elif quantised is None:
        draft.refuse(key, f"Method `{chosen}` does not support a quantised base model.")
    else:
        ours = {"type": quantised} | ({"quantization": kind} if kind else {})
        for name, word in ours.items():
            draft.put(f"method.{name}", word, key=key)
        draft.note(key, "taken", f"Sets `method: {{{', '.join(f'{name}: {word}' for name, word in ours.items())}}}`.")


def base_is_quantised(draft: Draft) -> bool:
    chosen = method_type(draft.document.get("method", {}))
    return chosen is not None and chosen.quantised_type == draft.document.get("method", {}).get("type")


def objective(draft: Draft, key: str, value: Any) -> None:
    """Map an objective by its name in the other program."""
    name = word_of(value)
    for type_, model in OBJECTIVES.items():
        if (named := model.recipe_names.get(name)) is not None:
            ours = {"type": type_, **named.settings}
            draft.put("objective", ours, key=key)
            written = ", ".join(f"{field}: {word}" for field, word in ours.items())
            draft.note(key, "taken", f"Sets `objective: {{{written}}}`. {named.said}".rstrip())
            return
    draft.refuse(key, OBJECTIVES_REFUSED.get(name, f"The engine has no objective `{name}`."))


def objective_options(program: str, *, choose: bool = False) -> dict[str, Rule]:
    """Return a rule for each key of the program's recipes that is specific to an objective.

    Args:
        choose: Whether the first such key determines the objective.
    """

    def rule(draft: Draft, key: str, value: Any) -> None:
        if choose and "objective" not in draft.document:
            owner = next(name for name, model in OBJECTIVES.items() if key in model.recipe_options.get(program, {}))
            draft.put("objective.type", owner, key=key)
        model = objective_type(draft.document.get("objective", {}))
        setting = model.recipe_options.get(program, {}).get(key) if model else None
        if model is None or setting is None:
            draft.note(key, "not_supported", OTHER_OBJECTIVE)
            return
        known, words = choices_of(model.model_fields[setting].annotation), names_of(value)
        if known and (len(words) != 1 or words[0] not in known):
            draft.refuse(key, f"`objective.{setting}` has no `{word_of(value)}`: use one of {', '.join(known)}.")
            return
        draft.put(f"objective.{setting}", words[0] if known else number_of(value), key=key)
        draft.note(key, "taken", f"Sets `objective.{setting}{f': {words[0]}' if known else ''}`.")

    return {key: rule for model in OBJECTIVES.values() for key in model.recipe_options.get(program, {})}


def packing(batch: str, length: str) -> Rule:
    """Return the rule for packing. There a packed sequence of `length` tokens counts as one row; here each row counts.

    Args:
        batch: What counts rows, in the words of the note.
        length: The key of the length of a packed sequence there.
    """

    def rule(draft: Draft, key: str, value: Any) -> None:
        draft.put("training.packing", True, key=key)
        if flag_of(value):
            sentence = (
                f"Rows are packed here too, but {batch} counts rows, not packed sequences of `{length}` tokens: "
                "for the same tokens per step, raise `training.gradient_accumulation_steps`."
            )
        else:
            sentence = "It stays on: packing here does not change the results, it only saves the padding."
        draft.note(key, "changed", sentence)

    return rule


def warmup_ratio(draft: Draft, key: str, value: Any) -> None:
    if _has_no_warmup(draft):
        _without_warmup(draft, key)
        return
    if not is_off(draft.source.get("warmup_steps")):
        draft.note(key, "changed", "`warmup_steps` takes precedence, as it does there.")
        return
    draft.put("training.warmup_ratio", number_of(value), key=key)
    draft.note(key, "taken", "Sets `training.warmup_ratio`.")


def warmup_steps(draft: Draft, key: str, value: Any) -> None:
    """Convert steps to our share of all steps, exactly if the file says how many there are."""
    steps, total = number_of(value), number_of(draft.source.get("max_steps"))
    if _has_no_warmup(draft):
        _without_warmup(draft, key)
    elif is_off(steps) and not is_off(draft.source.get("warmup_ratio")):
        draft.note(key, "taken", "`warmup_ratio` takes precedence, as it does there.")
    elif not isinstance(steps, int | float) or steps < 1:
        draft.put("training.warmup_ratio", steps, key=key)
        draft.note(key, "taken", "Sets `training.warmup_ratio`.")
    elif isinstance(total, int | float) and total > 0:
        draft.put("training.warmup_ratio", min(1.0, round(steps / total, 6)), key=key)
        draft.note(key, "changed", f"Warm-up is a share of the steps here: {steps:g} of {total:g}.")
    else:
        draft.put("training.warmup_ratio", USUAL_WARMUP_RATIO, key=key)
        draft.note(
            key,
            "changed",
            f"Warm-up is a share of the steps here, and the file does not say how many there are: {USUAL_WARMUP_RATIO} "
            f"is used. For {steps:g} steps, set `training.warmup_ratio` to {steps:g} divided by the plan's steps.",
        )


def _has_no_warmup(draft: Draft) -> bool:
    """Return whether the schedule is transformers' `constant`; with warm-up it is `constant_with_warmup`."""
    return "constant" in (draft.source.get("lr_scheduler"), draft.source.get("lr_scheduler_type"))


def _without_warmup(draft: Draft, key: str) -> None:
    draft.put("training.warmup_ratio", 0.0, key=key)
    draft.note(key, "changed", "The schedule `constant` has no warm-up there: `training.warmup_ratio` is 0.")


def held_out(draft: Draft, key: str, value: Any) -> None:
    """Map a share or a number of rows. There the last weights are kept, unless `load_best_model_at_end` is set."""
    size = number_of(value)
    if is_off(size):
        draft.note(key, "taken", "No rows are held out.")
        return
    if isinstance(size, int | float) and size >= 1:
        draft.put("evaluation.fraction", USUAL_HELD_OUT_FRACTION, key=key)
        draft.note(
            key, "changed", f"The hub holds out a share instead of {size:g} rows: {USUAL_HELD_OUT_FRACTION} is used."
        )
    elif isinstance(size, int | float) and size > LARGEST_HELD_OUT_FRACTION:
        draft.put("evaluation.fraction", LARGEST_HELD_OUT_FRACTION, key=key)
        draft.note(key, "changed", f"At most {LARGEST_HELD_OUT_FRACTION} of the rows can be held out.")
    else:
        draft.put("evaluation.fraction", size, key=key)
        draft.note(key, "taken", "Sets `evaluation.fraction`, which applies to each dataset.")
    draft.put("evaluation.keep_best", flag_of(draft.source.get("load_best_model_at_end")), key=key)


def every_steps(place: str) -> Rule:
    """Return the rule for an interval in steps; a share of all steps cannot be expressed."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        steps = number_of(value)
        if isinstance(steps, int | float) and steps >= 1:
            draft.put(place, int(steps), key=key)
            draft.note(key, "taken", f"Sets `{place}`.")
        else:
            draft.note(key, "changed", f"The hub counts in steps: `{place}` keeps its default.")

    return rule


def half_precision(dtype: str) -> Rule:
    """Return the rule for `bf16` or `fp16`, the number format of the frozen base model."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if value == "auto":
            draft.put("runtime.dtype", "auto", key=key)
            draft.note(key, "taken", "Sets `runtime.dtype: auto`.")
        elif flag_of(value):
            draft.put("runtime.dtype", dtype, key=key)
            draft.note(key, "taken", f"Sets `runtime.dtype: {dtype}`.")
        else:
            draft.note(key, "taken", "It is off.")

    return rule


def add_dataset(draft: Draft, origin: str, **choice: Any) -> str:
    """Add a registered dataset with a unique name made from its origin; return the name."""
    datasets = draft.document.setdefault("datasets", [])
    taken = {dataset.get("name") for dataset in datasets}
    name = base = slug_of(origin)
    number = 2
    while name in taken:
        name = slug_of(f"{base[:60]}-{number}")
        number += 1
    datasets.append({"name": name, **choice})
    return name

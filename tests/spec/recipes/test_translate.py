"""Recipes of Axolotl and LLaMA-Factory become ours: what they say is kept, and nothing is dropped in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from finetune_hub.spec.objectives.dpo import DpoObjective
from finetune_hub.spec.recipes import axolotl, llama_factory, llama_factory_v1
from finetune_hub.spec.recipes.draft import MAX_NAME_LENGTH, Outcome, slug_of
from finetune_hub.spec.recipes.translate import PROGRAMS, Translation, translate
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import TrainingSpec

AXOLOTL: dict[str, Any] = {
    "base_model": "acme/small-1b",
    "adapter": "qlora",
    "load_in_4bit": True,
    "datasets": [
        {"path": "acme/Support Tickets", "type": "alpaca", "split": "train[:10%]"},
        {"path": "./rows/own.jsonl", "ds_type": "json", "type": "chat_template", "weight": 2},
    ],
    "sequence_len": 4096,
    "lora_r": 32,
    "lora_alpha": 16,
    "lora_target_linear": True,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "num_epochs": 3,
    "optimizer": "adamw_bnb_8bit",
    "learning_rate": "1e-4",
    "bf16": "auto",
    "wandb_project": None,
}
LLAMA_FACTORY: dict[str, Any] = {
    "model_name_or_path": "acme/small-1b",
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "dataset": "tickets, letters",
    "template": "llama3",
    "learning_rate": 1e-4,
}
V1: dict[str, Any] = {
    "model": "acme/small-1b",
    "model_class": "llm",
    "peft_config": {"name": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all"},
    "train_dataset": "data/tickets.yaml",
}


def translated(document: dict[str, Any], **changes: Any) -> Translation:
    return translate(json.dumps(document | changes))  # JSON is YAML.


def outcomes(translation: Translation, key: str) -> set[Outcome]:
    return {note.outcome for note in translation.notes if note.key.split(".")[0] == key}


def spec_of(translation: Translation) -> TrainingSpec:
    assert translation.spec is not None, translation.refusals
    return translation.spec


def test_axolotl_means_the_same_here() -> None:
    translation = translated(AXOLOTL)
    expected = {
        "base_model": "acme/small-1b",
        "datasets": [{"name": "acme-support-tickets"}, {"path": "./rows/own.jsonl", "weight": 2}],
        "method": {"type": "qlora", "quantization": "nf4", "rank": 32, "alpha": 16, "target_modules": "all-linear"},
        "training": {
            "max_seq_len": 4096,
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 4,
            "epochs": 3,
            "optimizer": "adamw_8bit",
            "learning_rate": 1e-4,
            "schedule": "cosine",
            "seed": 42,
        },
    }
    assert translation.program == "Axolotl"
    assert spec_of(translation) == TrainingSpec.model_validate(expected)
    assert outcomes(translation, "datasets") == {"unresolved", "changed", "taken"}


def test_llama_factory_brings_its_own_defaults() -> None:
    translation = translated(LLAMA_FACTORY)
    spec = spec_of(translation)
    assert [dataset.name for dataset in spec.datasets] == ["tickets", "letters"]
    method = spec.method.model_dump()
    assert (method["type"], method["rank"], method["alpha"]) == ("lora", 8, 16)
    assert (spec.training.epochs, spec.training.max_seq_len, spec.training.warmup_ratio) == (3, 2048, 0)
    assert spec.runtime.activation_checkpointing
    (alpha,) = [note for note in translation.notes if note.key == "lora_alpha"]
    assert "twice the rank" in alpha.sentence


def test_llama_factory_v1_is_read_too() -> None:
    spec = spec_of(translated(V1, quant_config={"name": "bnb", "quantization_bit": 4}))
    method = spec.method.model_dump()
    assert (method["type"], method["quantization"], method["rank"]) == ("qlora", "nf4", 16)
    assert spec.datasets[0].name == "data-tickets"


@pytest.mark.parametrize(
    ("document", "changes", "place", "value"),
    [
        (AXOLOTL, {"adapter": "lora", "load_in_4bit": False, "load_in_8bit": True}, "method.quantization", "int8"),
        (AXOLOTL, {"adapter": "lora", "load_in_4bit": False}, "method.type", "lora"),
        (AXOLOTL, {"lora_target_linear": None, "lora_target_modules": ["q_proj"]}, "method.target_modules", ["q_proj"]),
        (AXOLOTL, {"peft_use_dora": True}, "method.use_dora", True),
        (AXOLOTL, {"peft_init_lora_weights": "olora"}, "method.init_weights", "olora"),
        (AXOLOTL, {"loraplus_lr_ratio": 16}, "method.learning_rate_ratio", 16),
        (AXOLOTL, {"bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}}, "method.double_quantization", False),
        (AXOLOTL, {"gradient_accumulation_steps": None, "batch_size": 8}, "training.gradient_accumulation_steps", 4),
        (AXOLOTL, {"warmup_steps": 10, "max_steps": 40}, "training.warmup_ratio", 0.25),
        (AXOLOTL, {"warmup_steps": 0.1}, "training.warmup_ratio", 0.1),
        (AXOLOTL, {"warmup_ratio": 0.1, "lr_scheduler": "constant"}, "training.warmup_ratio", 0.0),
        (AXOLOTL, {"optimizer": "lion_pytorch"}, "training.optimizer", "adamw"),
        (AXOLOTL, {"val_set_size": 0.1}, "evaluation.fraction", 0.1),
        (AXOLOTL, {"val_set_size": 0.1}, "evaluation.keep_best", False),
        (AXOLOTL, {"val_set_size": 0.1, "load_best_model_at_end": True}, "evaluation.keep_best", True),
        (AXOLOTL, {"gradient_checkpointing": True}, "runtime.activation_checkpointing", True),
        (AXOLOTL, {"revision_of_model": "abc"}, "base_model", "acme/small-1b@abc"),
        (LLAMA_FACTORY, {"quantization_bit": 4, "quantization_type": "fp4"}, "method.quantization", "fp4"),
        (LLAMA_FACTORY, {"quantization_bit": 8}, "method.quantization", "int8"),
        (LLAMA_FACTORY, {"lora_target": "q_proj,v_proj"}, "method.target_modules", ["q_proj", "v_proj"]),
        (LLAMA_FACTORY, {"lora_alpha": 8}, "method.alpha", 8),
        (LLAMA_FACTORY, {"pissa_init": True}, "method.init_weights", "pissa"),
        (LLAMA_FACTORY, {"use_rslora": True}, "method.use_rslora", True),
        (LLAMA_FACTORY, {"interleave_probs": "0.7,0.3"}, "datasets.1.weight", 0.3),
        (LLAMA_FACTORY, {"bf16": True}, "runtime.dtype", "bfloat16"),
        (LLAMA_FACTORY, {"neftune_noise_alpha": 5}, "training.neftune_alpha", 5),
        (LLAMA_FACTORY, {"max_steps": -1}, "training.max_steps", None),
    ],
)  # fmt: skip
def test_a_setting_reaches_its_place(document: dict[str, Any], changes: dict[str, Any], place: str, value: Any) -> None:
    translation = translated(document, **changes)
    found: Any = spec_of(translation).model_dump()
    for part in place.split("."):
        found = found[int(part) if part.isdigit() else part]
    assert found == value


@pytest.mark.parametrize(
    ("document", "changes", "key"),
    [
        (AXOLOTL, {"adapter": None}, "adapter"),
        (AXOLOTL, {"rl": "kto"}, "rl"),
        (AXOLOTL, {"rl": "dpo", "dpo_loss_type": ["sigmoid", "sft"]}, "dpo_loss_type"),
        (AXOLOTL, {"processor_type": "AutoProcessor"}, "processor_type"),
        (AXOLOTL, {"pretraining_dataset": "acme/web"}, "pretraining_dataset"),
        (AXOLOTL, {"lora_r": 4096}, "lora_r"),
        (AXOLOTL, {"learning_rate": "fast"}, "learning_rate"),
        (AXOLOTL, {"datasets": []}, "datasets"),
        (LLAMA_FACTORY, {"finetuning_type": "full"}, "finetuning_type"),
        (LLAMA_FACTORY, {"stage": "dpo", "pref_loss": "simpo"}, "pref_loss"),
        (LLAMA_FACTORY, {"stage": "kto"}, "stage"),
        (LLAMA_FACTORY, {"do_train": False, "do_predict": True}, "do_train"),
        (LLAMA_FACTORY, {"image_max_pixels": 262144}, "image_max_pixels"),
        (LLAMA_FACTORY, {"quantization_bit": 2}, "quantization_bit"),
        (V1, {"peft_config": {"name": "freeze"}}, "peft_config"),
        (V1, {"pref_loss": "orpo"}, "pref_loss"),
    ],
)
def test_another_training_is_refused_at_its_key(document: dict[str, Any], changes: dict[str, Any], key: str) -> None:
    translation = translated(document, **changes)
    assert translation.spec is None
    assert {note.key.split(".")[0] for note in translation.refusals} == {key}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.PROGRAM)
@pytest.mark.parametrize("value", [None, True, False, 0, 3, -1.5, "", "words", [], [{}], [1, "a"], {}, {"a": [1]}])
def test_every_key_is_noted_whatever_its_value_is(program: Any, value: Any) -> None:
    """Nothing crashes, and nothing is dropped in silence."""
    sample = {axolotl: AXOLOTL, llama_factory: LLAMA_FACTORY, llama_factory_v1: V1}[program]
    keys = [*program.KEYS, *program.FAMILIES, "never_heard_of"]
    for changes in (dict.fromkeys(keys, value), *({key: value} for key in sample)):
        translation = translated(sample, **changes)
        assert sample.keys() | changes.keys() <= {note.key.split(".")[0] for note in translation.notes}
        assert (translation.spec is None) == bool(translation.refusals)


def test_an_unknown_key_is_named_with_the_nearest_one() -> None:
    (note,) = [note for note in translated(AXOLOTL, sequence_length=8).notes if note.key == "sequence_length"]
    assert note.outcome == "not_supported"
    assert "`sequence_len`" in note.sentence


def test_a_repeated_key_is_named() -> None:
    translation = translate(yaml.safe_dump(AXOLOTL) + "seed: 1\nseed: 2\n")
    assert spec_of(translation).training.seed == 2
    assert "changed" in outcomes(translation, "seed")


def test_datasets_of_one_origin_get_names_of_their_own() -> None:
    twice = [{"path": "acme/rows", "split": "a"}, {"path": "acme/rows", "split": "b"}]
    names = [dataset.name for dataset in spec_of(translated(AXOLOTL, datasets=twice)).datasets]
    assert names == ["acme-rows", "acme-rows-2"]


def test_a_base_model_that_is_kept_quantised_is_unresolved() -> None:
    translation = translated(LLAMA_FACTORY, model_name_or_path="acme/Small-1B-GPTQ")
    (note,) = [note for note in translation.notes if note.key == "model_name_or_path"]
    assert note.outcome == "unresolved"
    assert "quantised" in note.sentence


def test_what_was_translated_is_a_recipe_of_ours_and_comes_back_unchanged() -> None:
    for sample in (AXOLOTL, LLAMA_FACTORY, V1):
        first = translated(sample)
        again = translate(first.as_yaml())
        assert (again.program, again.notes) == ("finetune_hub", [])
        assert spec_of(again) == spec_of(first)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no keys"),
        ("- a\n- b\n", "no keys"),
        ("a: b: c", "Line 1 is not YAML"),
        ("provider: cloud", "not a recipe of Axolotl"),
        ("a: &a [1]\nbase_model: *a", "aliases"),
        ("[" * 90_000, "levels deep"),
        ("#" * 100_001, "characters"),
        ("base_model: \0", "YAML"),
        ("when: 2024-99-99", "YAML"),
    ],
)
def test_what_is_no_recipe_is_unreadable(text: str, problem: str) -> None:
    with pytest.raises(Refusal, match=problem):
        translate(text)


@pytest.mark.parametrize("text", ["Owner/My Data", "a--b..c", "ÄÖ", "x" * 99, "x" * 63 + "-y", "a._-b"])
def test_slugs_are_names(text: str) -> None:
    name = slug_of(text)
    assert len(name) <= MAX_NAME_LENGTH
    TrainingSpec.model_validate({"base_model": "m", "dataset": {"name": name}})


@pytest.mark.parametrize(
    ("document", "changes", "objective"),
    [
        (AXOLOTL, {"rl": "dpo"}, {}),
        (AXOLOTL, {"rl": "ipo", "rl_beta": 0.3}, {"loss": "ipo", "beta": 0.3}),
        (
            AXOLOTL,
            {"rl": "dpo", "dpo_label_smoothing": "0.1", "rpo_alpha": 1},
            {"label_smoothing": 0.1, "sft_weight": 1},
        ),
        (AXOLOTL, {"rl": "dpo", "dpo_loss_type": ["hinge"], "dpo_beta": 0.2}, {"loss": "hinge", "beta": 0.2}),
        (LLAMA_FACTORY, {"stage": "dpo"}, {}),
        (
            LLAMA_FACTORY,
            {"stage": "dpo", "pref_beta": 0.2, "pref_loss": "hinge", "pref_ftx": 0.5, "dpo_label_smoothing": 0.0},
            {"beta": 0.2, "loss": "hinge", "sft_weight": 0.5},
        ),
        (V1, {"train_dataset": "data/tickets_dpo.yaml"}, {}),
        (V1, {"pref_loss": "sigmoid"}, {}),
    ],
)
def test_dpo_is_taken_with_its_options(
    document: dict[str, Any], changes: dict[str, Any], objective: dict[str, Any]
) -> None:
    spec = translated(document, **changes).spec
    assert spec is not None
    assert spec.objective == DpoObjective.model_validate(objective)


def test_options_of_pairs_say_nothing_of_another_objective() -> None:
    translation = translated(LLAMA_FACTORY, pref_beta=0.2)
    assert outcomes(translation, "pref_beta") == {"not_supported"}
    assert translation.spec is not None
    assert translation.spec.objective.type == "sft"


def test_a_note_tells_the_bits_of_the_base_model_once_and_right() -> None:
    text = "model_name_or_path: m\nstage: sft\ndo_train: true\nfinetuning_type: lora\nquantization_bit: 8\ndataset: d\n"
    translation = translate(text)
    said = {note.key: note.sentence for note in translation.notes}
    assert translation.spec is not None
    assert translation.spec.method.base_quantization["quantization"] == "int8"
    assert said["finetuning_type"] == "Sets `method: {type: qlora}`."
    assert said["quantization_bit"] == "Sets `method.quantization: int8`."

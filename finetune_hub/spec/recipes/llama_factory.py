"""LLaMA-Factory's YAML: how each key maps to our recipe.

Source: hiyouga/LLaMA-Factory, `src/llamafactory/hparams/`, at ff6d4d1 (August 2026), for keys and defaults;
other defaults are those of transformers' `TrainingArguments`.
"""

from __future__ import annotations

from typing import Any

from finetune_hub.spec.recipes.common import (
    FILE_DOES_NOT_SAY_GPUS,
    MULTIMODAL,
    NO_REMOTE_CODE,
    NO_TRACKING,
    OTHER_OBJECTIVE,
    OWN_FILES,
    OWN_KERNELS,
    OWN_RESUME,
    OWN_TOKENIZER,
    base_model,
    every_steps,
    half_precision,
    held_out,
    objective,
    objective_options,
    optimizer,
    packing,
    schedule,
    warmup_ratio,
    warmup_steps,
)
from finetune_hub.spec.recipes.draft import (
    Rule,
    flag_of,
    missing,
    needless,
    number_of,
    read_elsewhere,
    refused,
    replaced,
    take,
    unsupported,
)
from finetune_hub.spec.recipes.llama_factory_rules import (
    dataset,
    disable_checkpointing,
    do_train,
    double_quantization,
    finetuning_type,
    interleave_probs,
    lora_rank,
    lora_target,
    max_steps,
    pissa,
    quantization_bit,
)

PROGRAM = "LLaMA-Factory"
DEFAULTS = {
    "stage": "sft",
    "do_train": False,
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_target": "all",
    "cutoff_len": 2048,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "optim": "adamw_torch_fused",
    "disable_gradient_checkpointing": False,
    "seed": 42,
}


def recognises(document: dict[str, Any]) -> bool:
    return "model_name_or_path" in document


# Keys are read and noted in this order.
KEYS: dict[str, Rule] = {
    # What
    "stage": objective,
    **objective_options(PROGRAM),
    "ref_model": unsupported("DPO's reference model is the base model itself, with the adapter switched off."),
    "do_train": do_train,
    "model_name_or_path": base_model,
    "model_revision": read_elsewhere("It follows the `@` in `base_model`."),
    "dataset": dataset,
    "interleave_probs": interleave_probs,
    "mix_strategy": replaced("Rows of all datasets are shuffled together, according to their weights."),
    "max_samples": unsupported("All rows are used: shorten the files before you upload them."),
    "eval_dataset": unsupported("Rows are held out as a share of the datasets: `evaluation.fraction`."),
    **dict.fromkeys(
        [
            "image_max_pixels",
            "image_min_pixels",
            "video_max_pixels",
            "video_min_pixels",
            "video_fps",
            "video_maxlen",
            "audio_sampling_rate",
            "media_dir",
        ],
        refused(MULTIMODAL),
    ),
    **dict.fromkeys(
        ["freeze_vision_tower", "freeze_multi_modal_projector", "freeze_language_model"],
        replaced("The whole base model stays frozen."),
    ),
    # The method
    "finetuning_type": finetuning_type,
    "quantization_bit": quantization_bit,
    "quantization_method": read_elsewhere("It is read with `quantization_bit`."),
    "quantization_type": read_elsewhere("It is read with `quantization_bit`."),
    "double_quantization": double_quantization,
    "lora_rank": lora_rank,
    "lora_alpha": take("method.alpha"),
    "lora_dropout": take("method.dropout"),
    "lora_target": lora_target,
    "use_rslora": take("method.use_rslora", flag_of),
    "use_dora": take("method.use_dora", flag_of),
    "pissa_init": pissa,
    "pissa_iter": replaced("PiSSA starts from the exact principal components, without iteration."),
    "pissa_convert": replaced("PiSSA is always saved as plain LoRA of twice the rank."),
    "loraplus_lr_ratio": take("method.learning_rate_ratio", number_of),
    "loraplus_lr_embedding": unsupported("Embeddings have no separate learning rate."),
    "additional_target": unsupported(
        "Only adapters are trained, not whole modules; embeddings can be named in `method.target_modules`."
    ),
    **missing("adapter_name_or_path", because="Training always starts with a new adapter."),
    "create_new_adapter": replaced("Every training run creates a new adapter."),
    # Batches, optimizer and learning rate
    "cutoff_len": take("training.max_seq_len"),
    "packing": packing("a micro batch", "cutoff_len"),
    "neat_packing": replaced("Packed rows are always isolated from each other here."),
    "per_device_train_batch_size": take("training.micro_batch_size"),
    "gradient_accumulation_steps": take("training.gradient_accumulation_steps"),
    "num_train_epochs": take("training.epochs", number_of),
    "max_steps": max_steps,
    "learning_rate": take("training.learning_rate", number_of),
    "optim": optimizer,
    "lr_scheduler_type": schedule,
    "warmup_ratio": warmup_ratio,
    "warmup_steps": warmup_steps,
    "weight_decay": take("training.weight_decay", number_of),
    "max_grad_norm": take("training.max_grad_norm", number_of),
    "label_smoothing_factor": take("training.label_smoothing", number_of),
    "neftune_noise_alpha": take("training.neftune_alpha", number_of),
    "seed": take("training.seed"),
    "train_on_prompt": unsupported("Only the assistant's turns are supervised."),
    "mask_history": unsupported(
        'All of the assistant\'s turns are supervised, except those with `"weight": 0` in the row.'
    ),
    "template": replaced("The base model's own chat template is used, as it will be when the adapter is served."),
    **missing("default_system tool_format enable_thinking", because="The chat template and the rows determine this."),
    **missing("adam_beta1 adam_beta2 adam_epsilon", because="AdamW's default values are used."),
    "lr_scheduler_kwargs": unsupported("The schedule has no such option."),
    **dict.fromkeys(
        ["use_dft_loss", "use_asft_loss", "use_eaft_loss"],
        refused("It selects a loss that the engine does not have."),
    ),
    **missing("use_galore use_apollo use_badam use_adam_mini use_muon", because="AdamW is used instead."),
    # Held-out rows and checkpoints
    "val_size": held_out,
    "eval_steps": every_steps("evaluation.every_steps"),
    "save_steps": every_steps("training.checkpoint_every_steps"),
    "early_stopping_steps": take("evaluation.early_stopping_patience"),
    "load_best_model_at_end": take("evaluation.keep_best", flag_of),
    # Where it runs
    "bf16": half_precision("bfloat16"),
    "pure_bf16": half_precision("bfloat16"),
    "fp16": half_precision("float16"),
    "disable_gradient_checkpointing": disable_checkpointing,
    "gradient_checkpointing": replaced("`disable_gradient_checkpointing` takes precedence, as it does there."),
    "trust_remote_code": unsupported(NO_REMOTE_CODE),
    **missing("deepspeed fsdp fsdp_config", because=FILE_DOES_NOT_SAY_GPUS),
    **missing("use_mca use_megatron_bridge", because="Megatron is not used; see `runtime.gpus`."),
    "use_kt": unsupported("Experts cannot be kept on the CPU."),
    **missing("rope_scaling shift_attn mixture_of_depths", because="The base model cannot be changed."),
    # What the hub and its engine handle themselves
    **needless(
        "flash_attn use_unsloth use_unsloth_gc enable_liger_kernel use_v1_kernels tf32 upcast_layernorm "
        "upcast_lmhead_output use_reentrant_gc",
        because=OWN_KERNELS,
    ),
    **needless(
        "output_dir overwrite_output_dir overwrite_cache dataset_dir tokenized_path cache_dir save_only_model "
        "save_total_limit save_strategy plot_loss push_to_hub",
        because=OWN_FILES,
    ),
    "resume_from_checkpoint": replaced(OWN_RESUME),
    **needless("use_fast_tokenizer split_special_tokens", because=OWN_TOKENIZER),
    **missing(
        "resize_vocab add_tokens add_special_tokens new_special_tokens_config", because="Tokens cannot be added."
    ),
    **needless(
        "logging_steps preprocessing_num_workers preprocessing_batch_size dataloader_num_workers ddp_timeout "
        "per_device_eval_batch_size eval_strategy do_eval low_cpu_mem_usage include_num_input_tokens_seen "
        "ray_num_workers streaming group_by_length remove_unused_columns",
        because="The hub handles this itself.",
    ),
}
# Families of keys, by prefix.
FAMILIES: dict[str, Rule] = {
    **missing("report_to run_name use_swanlab swanlab_ ray_ logging_dir", because=NO_TRACKING),
    **missing("pref_ dpo_ ref_model ld_alpha", because="DPO has no such option here."),
    **missing("kto_ simpo_ ppo_ reward_model", because=OTHER_OBJECTIVE),
    **missing("kt_", because="Experts cannot be kept on the CPU."),
    **missing("galore_ apollo_ badam_ freeze_ oft_", because="It is an option of another method."),
}

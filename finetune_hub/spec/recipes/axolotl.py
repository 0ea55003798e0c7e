"""Axolotl's YAML: how each key maps to our recipe.

Source: axolotl-ai-cloud/axolotl, `src/axolotl/utils/schemas/`, at 067b021 (July 2026), for keys and defaults.
"""

from __future__ import annotations

from typing import Any

from finetune_hub.spec.recipes.axolotl_datasets import datasets
from finetune_hub.spec.recipes.axolotl_rules import (
    adapter,
    global_batch,
    gptq,
    gradient_checkpointing,
    init_weights,
    loftq,
    per_epoch,
    plugins,
    quantisation_options,
    target_linear,
    target_modules,
    target_parameters,
)
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
    is_off,
    missing,
    needless,
    number_of,
    read_elsewhere,
    refused,
    replaced,
    take,
    unsupported,
)

PROGRAM = "Axolotl"
DEFAULTS = {
    "rl": "sft",
    "adapter": "none",
    "sequence_len": 512,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_epochs": 1.0,
    "optimizer": "adamw_torch_fused",
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.03,
    "seed": 42,
}


def recognises(document: dict[str, Any]) -> bool:
    return "base_model" in document and bool(document.keys() & (KEYS.keys() - {"base_model", "datasets"}))


# Keys are read and noted in this order.
KEYS: dict[str, Rule] = {
    # What
    "base_model": base_model,
    "revision_of_model": read_elsewhere("It follows the `@` in `base_model`."),
    "datasets": datasets,
    "rl": objective,
    **objective_options(PROGRAM),
    **dict.fromkeys(["reward_model", "process_reward_model"], refused("The engine does not train reward models.")),
    "pretraining_dataset": refused(
        "Rows cannot be streamed from elsewhere: upload the text as a dataset and name it under `datasets`."
    ),
    "processor_type": refused(MULTIMODAL),
    "is_multimodal": refused(MULTIMODAL),
    # The method
    "adapter": adapter,
    "load_in_4bit": read_elsewhere("It is read as part of `method`."),
    "load_in_8bit": read_elsewhere("It is read as part of `method`."),
    "bnb_config_kwargs": quantisation_options,
    "lora_r": take("method.rank"),
    "lora_alpha": take("method.alpha"),
    "lora_dropout": take("method.dropout"),
    "lora_target_linear": target_linear,
    "lora_target_modules": target_modules,
    "lora_target_parameters": target_parameters,
    "lora_exclude_modules": take("method.exclude_modules"),
    "lora_rank_pattern": take("method.rank_pattern"),
    "lora_alpha_pattern": take("method.alpha_pattern"),
    "peft_use_rslora": take("method.use_rslora", flag_of),
    "peft_use_dora": take("method.use_dora", flag_of),
    "peft_init_lora_weights": init_weights,
    "peft": loftq,
    "loraplus_lr_ratio": take("method.learning_rate_ratio", number_of),
    "lora_fan_in_fan_out": replaced("The engine inspects the layers."),
    "lora_modules_to_save": unsupported(
        "Only adapters are trained, not whole modules; embeddings can be named in `method.target_modules`."
    ),
    "lora_model_dir": unsupported("Training always starts with a new adapter."),
    "relora": unsupported("The adapter is not merged and restarted during training: it is plain LoRA."),
    "quantize_moe_experts": replaced(
        "QLoRA here quantises linear layers only; experts stored as one parameter stay unquantised."
    ),
    "gptq": gptq,
    **missing(
        "peft_layers_to_transform peft_layers_pattern", because="Use a pattern in `method.target_modules` instead."
    ),
    **missing("unfrozen_parameters", because="The base model stays frozen."),
    # Batches, optimizer and learning rate
    "sequence_len": take("training.max_seq_len"),
    "sample_packing": packing("`micro_batch_size`", "sequence_len"),
    "micro_batch_size": take("training.micro_batch_size"),
    "gradient_accumulation_steps": take("training.gradient_accumulation_steps"),
    "batch_size": global_batch,
    "num_epochs": take("training.epochs", number_of),
    "max_steps": take("training.max_steps"),
    "learning_rate": take("training.learning_rate", number_of),
    "optimizer": optimizer,
    "lr_scheduler": schedule,
    "warmup_ratio": warmup_ratio,
    "warmup_steps": warmup_steps,
    "weight_decay": take("training.weight_decay", number_of),
    "max_grad_norm": take("training.max_grad_norm", number_of),
    "label_smoothing_factor": take("training.label_smoothing", number_of),
    "neftune_noise_alpha": take("training.neftune_alpha", number_of),
    "noisy_embedding_alpha": take("training.neftune_alpha", number_of),
    "seed": take("training.seed"),
    "train_on_inputs": unsupported("Only the assistant's turns are supervised."),
    "chat_template": replaced("The base model's own chat template is used, as it will be when the adapter is served."),
    **missing("chat_template_jinja", because="Only the base model's own chat template is used."),
    **missing("adam_beta1 adam_beta2 adam_epsilon adam_eps optim_args", because="AdamW's default values are used."),
    **missing(
        "lr_quadratic_warmup cosine_min_lr_ratio lr_scheduler_kwargs lr_groups embedding_lr",
        because="The schedule has no such option.",
    ),
    # Held-out rows and checkpoints
    "val_set_size": held_out,
    "test_datasets": unsupported("Rows are held out as a share of the datasets: `evaluation.fraction`."),
    "eval_steps": every_steps("evaluation.every_steps"),
    "evals_per_epoch": per_epoch("evaluation.every_steps"),
    "early_stopping_patience": take("evaluation.early_stopping_patience"),
    "load_best_model_at_end": take("evaluation.keep_best", flag_of),
    "save_steps": every_steps("training.checkpoint_every_steps"),
    "saves_per_epoch": per_epoch("training.checkpoint_every_steps"),
    # Where it runs
    "bf16": half_precision("bfloat16"),
    "bfloat16": half_precision("bfloat16"),
    "fp16": half_precision("float16"),
    "float16": half_precision("float16"),
    "gradient_checkpointing": gradient_checkpointing,
    "activation_offloading": take("runtime.activation_offload", lambda value: not is_off(value)),
    "torch_compile": take("runtime.compile", flag_of),
    "plugins": plugins,
    "trust_remote_code": unsupported(NO_REMOTE_CODE),
    **missing(
        "deepspeed fsdp fsdp_config fsdp_version dp_shard_size context_parallel_size tensor_parallel_size "
        "expert_parallel_size sequence_parallel_degree",
        because=FILE_DOES_NOT_SAY_GPUS,
    ),
    # What the hub and its engine handle themselves
    **needless(
        "attn_implementation flash_attention xformers_attention sdp_attention flex_attention "
        "flex_attn_compile_kwargs flash_attn_cross_entropy flash_attn_rms_norm flash_optimum lora_mlp_kernel "
        "lora_qkv_kernel lora_o_kernel cut_cross_entropy torch_compile_mode use_kernels use_scattermoe "
        "use_sonicmoe fused_attn_kernel experts_implementation tf32 gradient_checkpointing_kwargs",
        because=OWN_KERNELS,
    ),
    **needless(
        "pad_to_sequence_len group_by_length sample_packing_sequentially max_packed_sequence_len "
        "eval_sample_packing eval_batch_size",
        because="Not needed, as nothing is padded.",
    ),
    **needless(
        "output_dir dataset_prepared_path save_total_limit hub_model_id push_dataset_to_hub hf_use_auth_token "
        "skip_prepare_dataset save_safetensors save_strategy save_only_model",
        because=OWN_FILES,
    ),
    **needless("resume_from_checkpoint auto_resume_from_checkpoints", because=OWN_RESUME),
    **needless(
        "tokenizer_type tokenizer_config tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common",
        because=OWN_TOKENIZER,
    ),
    **needless(
        "special_tokens eot_tokens", because="Turns end with the tokenizer's own tokens and the chat template's."
    ),
    **missing("tokens added_tokens_overrides resize_token_embeddings_to_32x", because="Tokens cannot be added."),
    **needless(
        "model_type base_model_config is_llama_derived_model is_falcon_derived_model is_mistral_derived_model "
        "is_qwen_derived_model torch_dtype device_map low_cpu_mem_usage",
        because="It is read from the base model's own files.",
    ),
    **needless(
        "logging_steps debug strict local_rank ddp ddp_timeout ddp_find_unused_parameters "
        "remove_unused_columns dataset_processes dataloader_num_workers dataloader_pin_memory "
        "dataloader_prefetch_factor dataset_exact_deduplication shuffle_merged_datasets torchdistx_path "
        "eval_table_size eval_max_new_tokens use_ray ray_num_workers",
        because="The hub handles this itself.",
    ),
}
# Families of keys, by prefix.
FAMILIES: dict[str, Rule] = {
    **missing("wandb_ mlflow_ swanlab_ trackio_ comet_ otel_", because=NO_TRACKING),
    **missing("use_wandb use_mlflow use_swanlab use_trackio use_comet use_tensorboard use_otel", because=NO_TRACKING),
    **needless("liger_", because=OWN_KERNELS),
    **missing("dpo_", because="DPO has no such option here."),
    **missing("rl_ kto_ orpo_ trl ebft vllm", because=OTHER_OBJECTIVE),
    **missing("gptq_", because="GPTQ weights cannot be read."),
    **missing(
        "loss_watchdog_", because="A job whose loss is not a number fails as `diverged`; there is no other watchdog."
    ),
    **missing("jagged_restart_ relora_", because="The adapter is not restarted during training."),
}

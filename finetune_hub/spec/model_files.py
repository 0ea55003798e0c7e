"""The small files that transformers saves next to a base model's weights."""

from __future__ import annotations

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
CONFIG_FILES = ("config.json", "generation_config.json")
WEIGHTS_INDEX = "model.safetensors.index.json"

"""Tiny random base models and chat files, made in well under a second: what engine and integration tests train on.

torch and transformers are imported inside the functions, so that a test module which never calls them stays light.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_WORDS = [
    "red",
    "green",
    "blue",
    "one",
    "two",
    "three",
    "four",
    "five",
    "sun",
    "moon",
    "star",
    "cat",
    "dog",
    "bird",
    "tree",
    "river",
    "stone",
    "cloud",
]


# Patterns that split text before a byte-level tokenizer's merges, as the models of these names have them.
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "llama 3": rf"{_LETTERS}|\p{{N}}{{1,3}}|{_REST}",
    "qwen": rf"{_LETTERS}|\p{{N}}|{_REST}",
    "words": r"\w+",
}


def make_tokenizer(
    folder: Path,
    *,
    chat_template: str | None = CHATML,
    extra_tokens: tuple[str, ...] = (),
    split: str = "byte-level",
) -> None:
    """A byte-level tokenizer.json (256 bytes and the special tokens) with its settings and chat template.

    Args:
        split: How text is split before the merges: `byte-level` as GPT-2 does, `digits` as SmolLM, or one of `SPLITS`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġ", "a"), ("i", "n"), ("Ġt", "he")]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split == "digits":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, tokenizer.pre_tokenizer])
    elif split in SPLITS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLITS[split]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (*SPECIAL_TOKENS, *extra_tokens)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def make_sentencepiece_tokenizer(folder: Path) -> None:
    """A tokenizer.json as Gemma's: BPE over characters, a byte token where there is none, `▁` for a space."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<|im_start|>", "<|im_end|>"]
    tokens = [
        *specials,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁thearinuscd",
        "▁t",
        "he",
        "▁the",
        "in",
        "▁a",
        "th",
    ]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("i", "n"), ("▁", "a"), ("t", "h")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "chat_template": CHATML,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def make_tiny_model(
    folder: Path,
    *,
    architecture: str = "llama",
    layers: int = 2,
    hidden: int = 64,
    seed: int = 0,
    dtype: str = "float32",
    chat_template: str | None = CHATML,
    **shape: Any,
) -> Path:
    """A random causal language model with a byte-level tokenizer, in transformers' folder format.

    Args:
        architecture: A transformers model type: `llama`, `qwen2`, `gpt_neox`, `mistral` …
        shape: Settings of its config beside those below, or in their place.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    make_tokenizer(folder, chat_template=chat_template)
    options: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": hidden,
        "intermediate_size": hidden * 2,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "eos_token_id": 263,
        "bos_token_id": 261,
        "pad_token_id": 261,
    }
    if architecture != "gpt_neox":
        options |= {"num_key_value_heads": 2, "tie_word_embeddings": True}
    config = AutoConfig.for_model(architecture, **options | shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        # A random model's logits are nearly flat: larger matrices make differences visible.
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() == 2:
                    weight.mul_(4)
    model.save_pretrained(folder)
    return folder


def make_chat_rows(path: Path, count: int, seed: int = 0) -> Path:
    """A chat JSONL file of ragged short conversations that have something to learn: echo the words, reversed."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            words = draw.choices(_WORDS, k=draw.randint(1, 6))
            messages = [
                {"role": "user", "content": f"Reverse: {' '.join(words)}"},
                {"role": "assistant", "content": " ".join(reversed(words))},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path

"""Convert the `tokenizer.json` that training used to GGUF.

    byte-level BPE        `gpt2`: tokens and merges; `pre` names the pattern that splits text before merging
    BPE with byte tokens  `llama`, as in sentencepiece: tokens and scores. llama.cpp merges the pair with the highest
                          score, so a token's score is minus the rank of its first merge

Source: llama.cpp, `conversion/base.py` and `src/llama-vocab.cpp`, read in October 2026.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType
from tokenizers import Tokenizer

from finetune_hub.engine.errors import BadConfig

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# llama.cpp's names for the patterns that split text, by pattern.
_SPLITS = {
    rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_WORDS}|\p{{N}}|{_REST}": "qwen2",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
_UNUSED_SCORE = -10_000.0
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # Sentencepiece's.


def add_vocabulary(writer: GGUFWriter, folder: Path, vocab_size: int) -> None:
    """Write the tokenizer and the chat template of a model folder.

    Args:
        vocab_size: Rows of the embedding table; ids without a token get a placeholder.

    Raises:
        BadConfig: llama.cpp has no tokenizer that splits text like this one.
    """
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = document["model"]
    if model["type"] != "BPE":
        raise _refusal(f"its type is {model['type']}")
    byte_level = any(part["type"] == "ByteLevel" for part in _parts(document["pre_tokenizer"]))
    if not byte_level and not model["byte_fallback"]:
        raise _refusal("it has neither byte-level tokens nor byte tokens")
    special = SpecialVocab(folder, load_merges=byte_level, n_vocab=vocab_size)
    tokens, types = _tokens(document, vocab_size, byte_level=byte_level)
    if byte_level:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split_name(document["pre_tokenizer"]))
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(model, tokens))
        writer.add_add_space_prefix(_prepends_a_space(folder))
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in types])
    special.add_special_token = {**special.add_special_token, **_added_around_text(folder, special)}
    special.add_to_gguf(writer, quiet=True)


def _tokens(document: dict[str, Any], vocab_size: int, *, byte_level: bool) -> tuple[list[str], list[TokenType]]:
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    unknown = document["model"].get("unk_token")
    for token, number in document["model"]["vocab"].items():
        tokens[number], types[number] = token, TokenType.NORMAL
        if not byte_level and token.startswith("<0x") and token.endswith(">") and len(token) == len("<0x00>"):
            types[number] = TokenType.BYTE
    for added in document["added_tokens"]:
        number, text = added["id"], added["content"]
        # Added tokens are matched in the raw text, with normal spaces.
        tokens[number] = text if added["special"] else text.replace(_SPACE, " ")
        types[number] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        if text == unknown and not byte_level:
            types[number] = TokenType.UNKNOWN
    return tokens, types


def _scores(model: dict[str, Any], tokens: list[str]) -> list[float]:
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    return [-float(ranks[token]) if token in ranks else _UNUSED_SCORE for token in tokens]


def _parts(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    parts: list[dict[str, Any]] = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return parts


def _split_name(pre_tokenizer: dict[str, Any]) -> str:
    match _parts(pre_tokenizer):
        case [{"type": "ByteLevel", "use_regex": True}]:
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True}]:
            return "smollm"
        case [{"type": "Split", "pattern": {"Regex": pattern}}, {"type": "ByteLevel", "use_regex": False}]:
            if pattern in _SPLITS:
                return _SPLITS[pattern]
    raise _refusal("it splits text by a pattern that is not supported")


def _added_around_text(folder: Path, special: SpecialVocab) -> dict[str, bool]:
    """Return whether text gets BOS and EOS, found by encoding a text, as llama.cpp's defaults differ."""
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").ids
    found = special.special_token_ids
    return {"bos": ids[0] == found.get("bos"), "eos": ids[-1] == found.get("eos")}


def _prepends_a_space(folder: Path) -> bool:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a", add_special_tokens=False).tokens[0] != "a"


def _refusal(problem: str) -> BadConfig:
    return BadConfig(
        f"The tokenizer cannot be written for llama.cpp: {problem}.",
        "Export the merged model as safetensors (`merged`), and its tokenizer with llama.cpp's own tools.",
    )

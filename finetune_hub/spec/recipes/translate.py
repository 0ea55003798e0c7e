"""Translate other programs' recipes to ours: Axolotl's YAML, both kinds of LLaMA-Factory's, and our own unchanged.

    translate(text)  →  Translation: our recipe, and a note for each key of the file

No key is dropped silently: an unknown key is noted as not supported. A training that the hub cannot reproduce (a full
fine-tune, images, another objective) is refused with a reason, and there is no recipe.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import yaml
from pydantic import ValidationError

from finetune_hub.spec.document_defects import defects_of
from finetune_hub.spec.recipes import axolotl, llama_factory, llama_factory_v1
from finetune_hub.spec.recipes.draft import Draft, Note, Rule, word_of
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import TrainingSpec

OURS = "finetune_hub"
MAX_CHARACTERS = 100_000
MAX_DEPTH = 20
OUR_WORDS = {"spec_version", "method", "training"}  # No other program uses these keys.


class ForeignProgram(Protocol):
    """The attributes of a module that describes a program's recipes."""

    PROGRAM: str
    DEFAULTS: dict[str, Any]
    KEYS: dict[str, Rule]
    FAMILIES: dict[str, Rule]

    def recognises(self, document: dict[str, Any]) -> bool: ...


PROGRAMS: list[ForeignProgram] = [llama_factory, llama_factory_v1, axolotl]


@dataclass(frozen=True)
class Translation:
    """The result of translating a recipe."""

    program: str
    spec: TrainingSpec | None
    """None if something was refused; a note says what."""
    document: dict[str, Any]
    """The spec as written: only what the file says, and its program's defaults."""
    notes: list[Note]

    @property
    def refusals(self) -> list[Note]:
        return [note for note in self.notes if note.outcome == "refused"]

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.document, sort_keys=False, allow_unicode=True)


def translate(text: str) -> Translation:
    """Translate a recipe of any known program.

    Raises:
        Refusal: `unreadable_recipe`: it is not YAML, or not a recipe of a known program.
    """
    document, repeated = read_yaml(text)
    program = next((program for program in PROGRAMS if program.recognises(document)), None)
    if document.keys() & OUR_WORDS or (program is None and "base_model" in document):
        return _validated(OURS, Draft(document, {}), document, repeated)
    if program is None:
        raise unreadable(
            "This is not a recipe of Axolotl, LLaMA-Factory or this hub.",
            "Theirs have a `base_model` or a `model_name_or_path`; ours are described in docs/recipes.md.",
        )
    draft = Draft(document, program.DEFAULTS)
    for key in _in_order(program, draft.source):
        _apply(program, draft, key)
    ordered = {key: draft.document[key] for key in TrainingSpec.model_fields if key in draft.document}
    return _validated(program.PROGRAM, draft, ordered, repeated)


def read_yaml(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return the document, and the keys that occur in it more than once.

    Raises:
        Refusal: `unreadable_recipe`: it is not YAML, not a mapping, or longer or deeper than allowed.
    """
    try:
        _check_events(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.SafeLoader("").construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise unreadable(f"Line {line} is not YAML: {error.problem}.", "Fix it; indent with spaces.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise unreadable("It cannot be read as YAML.", "Save it as plain UTF-8 text.") from error
    if not isinstance(root, yaml.MappingNode) or not isinstance(document, dict):
        raise unreadable("This is not a recipe: it has no keys.", "Provide the whole YAML file.")
    names = [key.value for key, _ in root.value if isinstance(key, yaml.ScalarNode)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    return {word_of(key): value for key, value in document.items()}, repeated


def unreadable(message: str, remedy: str) -> Refusal:
    return Refusal("unreadable_recipe", message, remedy, field="text")


def _check_events(text: str) -> None:
    """Refuse documents that are expensive to parse, before parsing them.

    Raises:
        Refusal: `unreadable_recipe`: it is too long, has aliases, or is nested too deeply.
    """
    if len(text) > MAX_CHARACTERS:
        raise unreadable(f"It has more than {MAX_CHARACTERS:,} characters.", "Provide only the recipe.")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise unreadable("It has YAML aliases (`*name`).", "Write out their values.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise unreadable(f"It is nested more than {MAX_DEPTH} levels deep as YAML.", "Reduce the nesting.")


def _in_order(program: ForeignProgram, source: Mapping[str, Any]) -> list[str]:
    """Return the keys in the table's order, as some rules build on others; then the keys that the table lacks."""
    return [key for key in program.KEYS if key in source] + [key for key in source if key not in program.KEYS]


def _apply(program: ForeignProgram, draft: Draft, key: str) -> None:
    value = draft.source[key]
    family = next((rule for start, rule in program.FAMILIES.items() if key.startswith(start)), None)
    rule = program.KEYS.get(key, family)
    if value is None:
        draft.note(key, "taken", "It is empty.")
    elif rule is not None:
        found = len(draft.notes)
        rule(draft, key, value)
        if len(draft.notes) == found:
            draft.note(key, "taken", "It is off or empty here too.")
    else:
        nearest = difflib.get_close_matches(key, program.KEYS, n=1, cutoff=0.8)
        hint = f" Did you mean `{nearest[0]}`?" if nearest else ""
        draft.note(key, "not_supported", f"The hub does not know this key.{hint}")


def _validated(program: str, draft: Draft, document: dict[str, Any], repeated: list[str]) -> Translation:
    """Validate the draft as a spec; errors are noted at the key that they came from."""
    spec = None
    for key in repeated:
        draft.note(key, "changed", "It is in the file more than once: the last value is used.")
    if not any(note.outcome == "refused" for note in draft.notes):
        try:
            spec = TrainingSpec.model_validate(document)
        except ValidationError as error:
            for defect in defects_of(error, TrainingSpec):
                place = ".".join(map(str, defect["loc"]))
                draft.refuse(draft.origin_of(place), f"`{place}`: {defect['message']}. {defect['remedy']}")
    places = {key: number for number, key in enumerate(draft.source)}
    last = len(places)
    notes = sorted(draft.notes, key=lambda note: places.get(note.key.partition(".")[0], last))
    return Translation(program, spec, document, notes)

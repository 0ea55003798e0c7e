"""The `datasets` of Axolotl's YAML: where the rows are stored, and in which format."""

from __future__ import annotations

from typing import Any

from finetune_hub.spec.recipes.common import add_dataset
from finetune_hub.spec.recipes.draft import Draft, Note, is_off, number_of, word_of

_FILE_ENDINGS = (".json", ".jsonl", ".parquet", ".csv", ".arrow", ".txt", ".gz", ".zst")
# Keys that say where rows are, in addition to the path.
_PLACES = ("split", "name", "data_files", "revision", "ds_type")
_MAPPINGS = (
    "field", "field_messages", "field_human", "field_model", "field_tools", "field_thinking", "field_chosen",
    "field_rejected", "template_thinking_key", "message_property_mappings", "message_field_role",
    "message_field_content", "roles", "drop_system_message", "input_format", "input_transform", "conversation",
)  # fmt: skip
_SUPERVISION = (
    "roles_to_train", "train_on_eos", "train_on_eot", "message_field_training", "message_field_training_detail",
)  # fmt: skip


def datasets(draft: Draft, key: str, value: Any) -> None:
    """Map each entry to one of our datasets. Axolotl draws all rows equally, so the weight is 1 unless it names one."""
    entries = value if isinstance(value, list) else [value]
    for number, entry in enumerate(entries):
        if isinstance(entry, dict) and isinstance(entry.get("path"), str):
            _one_dataset(draft, f"{key}.{number}", entry)
        elif not is_off(entry):
            draft.refuse(f"{key}.{number}", "It has no `path`: add the location of its rows.")


def _one_dataset(draft: Draft, place: str, entry: dict[str, Any]) -> None:
    path, kind = entry["path"], entry.get("type")
    weight = {} if entry.get("weight") is None else {"weight": number_of(entry["weight"])}
    found = len(draft.notes)
    if is_file(path):
        draft.document.setdefault("datasets", []).append({"path": path, **weight})
        draft.note(
            f"{place}.path", "unresolved", "A local file: `finetune-hub train` reads it. For the hub, upload it "
            "(`finetune-hub datasets push FILE`) and use its name there."
        )  # fmt: skip
    else:
        name = add_dataset(draft, path, **weight)
        draft.note(
            f"{place}.path", "unresolved", f"It is stored elsewhere: upload its rows as the dataset `{name}`, "
            f"`finetune-hub datasets push FILE --name {name}`."
        )  # fmt: skip
    for key, value in entry.items():
        if key != "path":
            draft.notes.append(_note_of(f"{place}.{key}", key, value))
    if word_of(kind).startswith(("bradley_terry", "stepwise_supervised")):
        draft.refuse(f"{place}.type", "The engine does not train reward models.")
    _without_repeats(draft, found)


def _note_of(place: str, key: str, value: Any) -> Note:
    if value is None:
        return Note(place, "taken", "It is empty.")
    if key == "weight":
        return Note(place, "taken", "It is the dataset's `weight`.")
    if key == "type":
        if word_of(value).startswith(("completion", "pretrain")):
            return Note(place, "changed", "Upload the rows as plain text: every token of such a row is supervised.")
        form = word_of(value) if not isinstance(value, dict) else "described in the file"
        return Note(place, "changed", f"The format of the rows ({form}) is detected or mapped when you upload them.")
    if key in _PLACES:
        return Note(place, "changed", "It selects rows: upload only those.")
    if key in _MAPPINGS:
        return Note(place, "changed", "It says how to read rows: map them when you upload them.")
    if key in _SUPERVISION:
        return Note(
            place,
            "not_supported",
            'The assistant\'s turns are supervised; a turn with `"weight": 0` in its row is not.',
        )
    return Note(place, "not_supported", "The hub has no such option.")


def _without_repeats(draft: Draft, found: int) -> None:
    """Drop other notes on keys that were refused."""
    refused = {note.key for note in draft.notes[found:] if note.outcome == "refused"}
    draft.notes[found:] = [note for note in draft.notes[found:] if note.outcome == "refused" or note.key not in refused]


def is_file(path: str) -> bool:
    """Return whether it is a local path instead of a Hugging Face id or a URL."""
    return path.startswith((".", "/", "~")) or ("://" not in path and path.endswith(_FILE_ENDINGS))

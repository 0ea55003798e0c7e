"""The `datasets` of Axolotl's YAML: where the rows lie, and what form they have."""

from __future__ import annotations

from typing import Any

from finetune_hub.spec.recipes.common import add_dataset
from finetune_hub.spec.recipes.draft import Draft, Note, is_off, number_of, word_of

_FILE_ENDINGS = (".json", ".jsonl", ".parquet", ".csv", ".arrow", ".txt", ".gz", ".zst")
# What says where rows are, beside the path.
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
    """Each entry becomes a dataset of ours; all rows count the same there, so each has weight 1 unless it says one."""
    entries = value if isinstance(value, list) else [value]
    for number, entry in enumerate(entries):
        if isinstance(entry, dict) and isinstance(entry.get("path"), str):
            _one_dataset(draft, f"{key}.{number}", entry)
        elif not is_off(entry):
            draft.refuse(f"{key}.{number}", "It has no `path`: say where its rows are.")


def _one_dataset(draft: Draft, place: str, entry: dict[str, Any]) -> None:
    path, kind = entry["path"], entry.get("type")
    weight = {} if entry.get("weight") is None else {"weight": number_of(entry["weight"])}
    found = len(draft.notes)
    if is_file(path):
        draft.document.setdefault("datasets", []).append({"path": path, **weight})
        draft.note(
            f"{place}.path", "unresolved", "A file of this machine: `finetune-hub train` reads it; the hub wants it "
            "uploaded (`finetune-hub datasets push FILE`), and then its name there."
        )  # fmt: skip
    else:
        name = add_dataset(draft, path, **weight)
        draft.note(
            f"{place}.path", "unresolved", f"It lies elsewhere: upload its rows as the dataset `{name}`, "
            f"`finetune-hub datasets push FILE --name {name}`."
        )  # fmt: skip
    for key, value in entry.items():
        if key != "path":
            draft.notes.append(_note_of(f"{place}.{key}", key, value))
    if word_of(kind).startswith(("bradley_terry", "stepwise_supervised")):
        draft.refuse(f"{place}.type", "The engine trains no reward models.")
    _without_repeats(draft, found)


def _note_of(place: str, key: str, value: Any) -> Note:
    if value is None:
        return Note(place, "taken", "It is empty.")
    if key == "weight":
        return Note(place, "taken", "It is the dataset's `weight`.")
    if key == "type":
        if word_of(value).startswith(("completion", "pretrain")):
            return Note(place, "changed", "Upload the rows as plain text: every token of such a row is learned.")
        form = word_of(value) if not isinstance(value, dict) else "described in the file"
        return Note(place, "changed", f"The form of the rows ({form}) is read or mapped when they are uploaded.")
    if key in _PLACES:
        return Note(place, "changed", "It says which rows: upload those.")
    if key in _MAPPINGS:
        return Note(place, "changed", "It says how rows are read: map them when they are uploaded.")
    if key in _SUPERVISION:
        return Note(
            place,
            "not_supported",
            'The assistant\'s turns are supervised; a turn with `"weight": 0` in its row is not.',
        )
    return Note(place, "not_supported", "There is nothing like it here.")


def _without_repeats(draft: Draft, found: int) -> None:
    """A key that was refused is not also called changed."""
    refused = {note.key for note in draft.notes[found:] if note.outcome == "refused"}
    draft.notes[found:] = [note for note in draft.notes[found:] if note.outcome == "refused" or note.key not in refused]


def is_file(path: str) -> bool:
    """A path of the machine, not an id on Hugging Face or an address."""
    return path.startswith((".", "/", "~")) or ("://" not in path and path.endswith(_FILE_ENDINGS))

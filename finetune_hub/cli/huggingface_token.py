"""`finetune-hub huggingface-token`: the team's token, read from the terminal or stdin, never shown."""

from __future__ import annotations

import sys

import typer

from finetune_hub.cli import style
from finetune_hub.cli.answers import HuggingFaceToken
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, day, print_json, reports_errors

app = style.new_group("The team's Hugging Face token, which imports of gated and private models use.")


@app.command()
@reports_errors
def show(as_json: Json = False) -> None:
    """Say whether there is one, and who set it."""
    with connect() as hub:
        _print_facts(hub.huggingface_token(), as_json)


@app.command("set")
@reports_errors
def set_token(as_json: Json = False) -> None:
    """Set or replace it: asked for without echo, or read from stdin. Admins of the team only."""
    token = typer.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    with connect() as hub:
        _print_facts(hub.set_huggingface_token(token.strip()), as_json)


@app.command()
@reports_errors
def remove() -> None:
    """Forget it."""
    with connect() as hub:
        hub.remove_huggingface_token()
    print("The team has no Hugging Face token any more.")


def _print_facts(facts: HuggingFaceToken, as_json: bool) -> None:
    if as_json:
        print_json(facts)
    elif facts.is_set:
        print(f"Set by {facts.set_by}, {day(facts.set_at)}.")
    else:
        print("The team has no Hugging Face token.")

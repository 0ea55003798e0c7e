"""`finetune-hub huggingface-token`: the team's token, read from the terminal or stdin and never shown."""

from __future__ import annotations

import sys

import typer

from finetune_hub.cli import style
from finetune_hub.cli.answers import HuggingFaceToken
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, day, print_json, reports_errors

app = style.new_group("The team's Hugging Face token, used to import gated and private models.")


@app.command()
@reports_errors
def show(as_json: Json = False) -> None:
    """Show whether the token is set, and by whom."""
    with connect() as hub:
        _print_facts(hub.huggingface_token(), as_json)


@app.command("set")
@reports_errors
def set_token(as_json: Json = False) -> None:
    """Set or replace the token, from a hidden prompt or stdin. Admins of the team only."""
    token = typer.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    with connect() as hub:
        _print_facts(hub.set_huggingface_token(token.strip()), as_json)


@app.command()
@reports_errors
def remove() -> None:
    """Delete the token."""
    with connect() as hub:
        hub.remove_huggingface_token()
    print("The Hugging Face token is removed.")


def _print_facts(facts: HuggingFaceToken, as_json: bool) -> None:
    if as_json:
        print_json(facts)
    elif facts.is_set:
        print(f"Set by {facts.set_by}, {day(facts.set_at)}.")
    else:
        print("The team has no Hugging Face token.")

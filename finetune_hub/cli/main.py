"""`finetune-hub`: the command line. This module imports no command: each loads when it is called.

To add a command, add a line to COMMANDS: its name, where it is, and its line in `--help`. "Where" names either a
function (one command; its parameters are typer's) or a `typer.Typer` made by `style.new_group` (a group of commands).
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from finetune_hub.cli import style
from finetune_hub.cli.this_machine import require_unix
from finetune_hub.spec.problem import Explained


class LazyCommand(NamedTuple):
    """A command that is not imported yet."""

    where: str  # "module:attribute"
    summary: str


# In the order of `--help`.
COMMANDS = {
    "demo": LazyCommand("finetune_hub.cli.demo:demo", "Start the hub and train a real adapter on sample data."),
    "up": LazyCommand("finetune_hub.cli.up:up", "Run the whole hub on this machine."),
    "status": LazyCommand("finetune_hub.cli.up:status", "Show what runs on this machine."),
    "down": LazyCommand("finetune_hub.cli.up:down", "Stop the hub on this machine."),
    "worker": LazyCommand("finetune_hub.cli.worker:worker", "Join a hub with this machine's GPUs."),
    "train": LazyCommand("finetune_hub.cli.train:train", "Train a recipe on this machine, without the hub."),
    "recipe": LazyCommand("finetune_hub.cli.recipe:app", "Make a recipe for a dataset, or import one."),
    "export": LazyCommand("finetune_hub.cli.export:export", "Write an adapter for other programs, or merged."),
    "plan": LazyCommand("finetune_hub.cli.plan:plan", "Check where a recipe fits, or what would fit."),
    "login": LazyCommand("finetune_hub.cli.login:login", "Choose the hub that the commands below talk to."),
    "datasets": LazyCommand("finetune_hub.cli.datasets:app", "Check, push, preview, compare and split datasets."),
    "base-models": LazyCommand("finetune_hub.cli.base_models:app", "Import a base model, list them."),
    "jobs": LazyCommand("finetune_hub.cli.jobs:app", "Submit a recipe, watch, pause, retry, cancel."),
    "adapters": LazyCommand("finetune_hub.cli.adapters:app", "List adapters, pull one."),
    "huggingface-token": LazyCommand(
        "finetune_hub.cli.huggingface_token:app", "Set the team's Hugging Face token, or remove it."
    ),
    "workers": LazyCommand("finetune_hub.cli.workers:app", "List, drain, resume, remove, share, invite."),
    "quotas": LazyCommand("finetune_hub.cli.quotas:app", "What teams may use of the fleet, and what they use."),
    "usage": LazyCommand("finetune_hub.cli.usage:usage", "Hours that devices were held in a month."),
}
# What commands were called a release ago: they still work, and say their new name.
FORMER_NAMES = {"hub-token": "huggingface-token"}
# These start processes of this machine, or look at them.
NEED_UNIX = {"demo", "up", "status", "down", "worker", "train", "export"}


class LazyGroup(TyperGroup):
    """Lists COMMANDS without importing them, and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in FORMER_NAMES:
            name = FORMER_NAMES[cmd_name]
            print(f"`{cmd_name}` is now called `{name}`; the old name goes with the next release.", file=sys.stderr)
            return load_command(name)
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


@functools.cache
def load_command(name: str) -> Any:
    """Import a command of COMMANDS: typer's form of a function or a group.

    Raises:
        CommandError: it needs a package that a client's installation does not bring, or another system.
    """
    lazy = COMMANDS[name]
    if name in NEED_UNIX:
        require_unix(name)
    module_name, _, attribute = lazy.where.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("finetune_hub"):
            raise
        raise style.CommandError(
            f"`finetune-hub {name}` needs the package {error.name}, which is not installed here.",
            'Install the whole hub with `pip install "finetune_hub[all]"`.',
        ) from error
    if isinstance(found, typer.Typer):
        command = typer.main.get_command(found)
    else:
        single = style.new_group(lazy.summary)
        single.command(name)(found)
        command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("finetune_hub"))
        raise typer.Exit


@app.callback()
def finetune_hub(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Fine-tune language models on your own GPUs."""


def main() -> None:
    """The entry point: errors that a user can fix come out as a sentence and a remedy."""
    try:
        app()
    except Explained as error:
        style.say_problem(error.problem)
        sys.exit(error.exit_code if isinstance(error, style.CommandError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

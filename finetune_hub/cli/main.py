"""The `finetune-hub` command line. This module imports no command; each is loaded when it is called.

To add a command, add a line to COMMANDS: its name, where it is, and its line in `--help`. "Where" is either a function
(one command; its parameters are typer's) or a `typer.Typer` from `style.new_group` (a group of commands).
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
    """A command that is imported on use."""

    where: str  # "module:attribute"
    summary: str


# In the order of `--help`.
COMMANDS = {
    "demo": LazyCommand("finetune_hub.cli.demo:demo", "Start the hub and train a real adapter on sample data."),
    "up": LazyCommand("finetune_hub.cli.up:up", "Run the whole hub on this machine."),
    "status": LazyCommand("finetune_hub.cli.up:status", "Show what is running on this machine."),
    "down": LazyCommand("finetune_hub.cli.up:down", "Stop the hub on this machine."),
    "worker": LazyCommand("finetune_hub.cli.worker:worker", "Join a hub with this machine's GPUs."),
    "train": LazyCommand("finetune_hub.cli.train:train", "Train a recipe on this machine, without the hub."),
    "recipe": LazyCommand("finetune_hub.cli.recipe:app", "Create a recipe for a dataset, or import one."),
    "export": LazyCommand("finetune_hub.cli.export:export", "Convert an adapter for other programs, or merge it."),
    "plan": LazyCommand("finetune_hub.cli.plan:plan", "Check where a recipe fits, or what would fit instead."),
    "login": LazyCommand("finetune_hub.cli.login:login", "Choose the hub for the commands below."),
    "datasets": LazyCommand("finetune_hub.cli.datasets:app", "Check, push, preview, compare and split datasets."),
    "base-models": LazyCommand("finetune_hub.cli.base_models:app", "Import and list base models."),
    "jobs": LazyCommand("finetune_hub.cli.jobs:app", "Submit a recipe, watch, pause, retry, cancel."),
    "adapters": LazyCommand("finetune_hub.cli.adapters:app", "List, download and delete adapters."),
    "trash": LazyCommand("finetune_hub.cli.trash:app", "List and restore what was deleted."),
    "huggingface-token": LazyCommand(
        "finetune_hub.cli.huggingface_token:app", "Set or remove the team's Hugging Face token."
    ),
    "workers": LazyCommand("finetune_hub.cli.workers:app", "List, drain, resume, remove, share, invite."),
    "quotas": LazyCommand("finetune_hub.cli.quotas:app", "Show and set how much of the fleet teams may use."),
    "usage": LazyCommand("finetune_hub.cli.usage:usage", "Show device hours used in a month."),
}
# Former command names: they still work for one release, and print the new name.
FORMER_NAMES = {"hub-token": "huggingface-token"}
# Commands that start or inspect processes on this machine.
NEED_UNIX = {"demo", "up", "status", "down", "worker", "train", "export"}


class LazyGroup(TyperGroup):
    """Command group that lists COMMANDS without importing them, and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in FORMER_NAMES:
            name = FORMER_NAMES[cmd_name]
            print(
                f"`{cmd_name}` is now called `{name}`; the old name will be removed in the next release.",
                file=sys.stderr,
            )
            return load_command(name)
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


@functools.cache
def load_command(name: str) -> Any:
    """Import a command of COMMANDS as a click command.

    Raises:
        CommandError: it needs a package that is not installed, or another operating system.
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
            'Install the full hub with `pip install "finetune_hub[all]"`.',
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
    """Run the command line. Errors that users can fix are printed as a message and a remedy."""
    try:
        app()
    except Explained as error:
        style.say_problem(error.problem)
        sys.exit(error.exit_code if isinstance(error, style.CommandError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

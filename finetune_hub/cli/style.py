"""The command line's style: plain text outside terminals, errors on stderr as a message and a remedy.

rich is imported when the first line is printed, so that `--help` does not need it.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import typer

from finetune_hub.spec.problem import Explained, Failed, FailureClass, Problem

if TYPE_CHECKING:
    from rich.console import Console


class CommandError(Explained):
    """A command cannot do what was requested."""

    failure_class: FailureClass = "bad_config"

    def __init__(self, message: str, remedy: str = "", *, exit_code: int = 1) -> None:
        super().__init__(Failed(self.failure_class, message, remedy))
        self.exit_code = exit_code


def new_group(summary: str) -> typer.Typer:
    """Return an empty group of commands with plain help and no tracebacks with local variables."""
    return typer.Typer(
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


@functools.cache
def console() -> Console:
    """Return standard output: coloured on a terminal, plain elsewhere, never wrapped."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def say(line: str = "") -> None:
    """Print a line of rich markup. A closed terminal is not an error."""
    try:
        console().print(line)
    except OSError:
        pass


def literal(text: object) -> str:
    """Escape markup in a text such as a path or URL."""
    from rich.markup import escape

    return escape(str(text))


def tick(name: str, seconds: float) -> None:
    """Print a completed part and how long it took."""
    say(f"  [green]✓[/green] {name:<10} [dim]{seconds:5.1f} s[/dim]")


def say_problem(problem: Problem) -> None:
    """Print on stderr what is wrong and what to do."""
    red, reset = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}Error:{reset} {problem.message}", file=sys.stderr)
    if problem.remedy:
        print(problem.remedy, file=sys.stderr)

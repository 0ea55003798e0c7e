"""`finetune-hub plan`: whether and where a recipe fits, how long it takes, and alternatives.

Plans for the hub's devices; with `--device` and `--base` it needs no hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli.connection import HubError
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import EXIT_BAD_INPUT, Json, print_json, print_table, reports_errors
from finetune_hub.cli.recipes import Recipe, read_recipe
from finetune_hub.scheduling.fitting import plan_on
from finetune_hub.scheduling.plan_answer import DeviceAnswer, PlanAnswer
from finetune_hub.spec.sizes import size_in_words


@reports_errors
def plan(
    recipe: Annotated[Path, typer.Argument(help="A training spec in YAML or JSON.")],
    device: Annotated[str, typer.Option(help="Plan for this device instead: `A100 80GB`, `cpu 16GB`.")] = "",
    base: Annotated[Path | None, typer.Option(help="With --device: the base model's folder.")] = None,
    as_json: Json = False,
) -> None:
    """Show whether and where a recipe fits, and what would fit instead. Submits nothing."""
    read = read_recipe(recipe)
    answer = plan_offline(read, device, base) if device else ask(read)
    if as_json:
        print_json(answer.model_dump(mode="json"))
    else:
        show(answer)
    if not answer.fits:
        raise typer.Exit(EXIT_BAD_INPUT)


def ask(read: Recipe) -> PlanAnswer:
    with connect() as hub:
        try:
            return hub.plan(read.document)
        except HubError as error:
            read.place(error)
            raise


def plan_offline(read: Recipe, device: str, base: Path | None) -> PlanAnswer:
    """Plan for a named device and a base model's folder, without a hub.

    Raises:
        Refusal: the recipe, device or folder is invalid.
    """
    from finetune_hub.cli.local_rows import rows_in
    from finetune_hub.cli.train import parse_spec
    from finetune_hub.scheduling.devices import device_named
    from finetune_hub.scheduling.facts import read_facts
    from finetune_hub.spec.shape import Shape

    spec = parse_spec(read)
    files = [(read.path.parent / choice.path, choice.weight) for choice in spec.datasets if choice.path is not None]
    folder = base or read.path.parent / Path(spec.base_model).expanduser()
    shape = Shape(read_facts(folder))
    rows, known = rows_in(files, folder)
    made = plan_on(spec, shape, device_named(device), rows)
    return PlanAnswer.of([(made, 1)], gpus=spec.runtime.gpus, assumptions=[known])


def show(answer: PlanAnswer) -> None:
    """Print the verdict, a table of devices, the parts of the first one, and alternatives."""
    print(answer.sentence)
    for assumption in answer.assumptions:
        print(f"  {assumption}")
    if not answer.devices:
        return
    print()
    print_table(
        ["DEVICE", "VERDICT", "PEAK", "USABLE", "STEPS", "TIME", "GPU-HOURS"],
        [row(device) for device in answer.devices],
    )
    best = answer.devices[0]
    print()
    print_table(["PART", "SIZE"], [(name, size_in_words(part)) for name, part in best.parts.items() if part])
    for sentence in best.sureness:
        print(sentence)
    if best.alternatives:
        print()
        print_table(
            ["INSTEAD", "PEAK", "TIME", "QUALITY"],
            [
                (
                    option.words,
                    size_in_words(option.peak_bytes),
                    f"x{option.slowdown}" if option.slowdown else "?",
                    option.quality,
                )
                for option in best.alternatives
            ],
        )


def row(device: DeviceAnswer) -> tuple[str, ...]:
    return (
        device.name,
        device.verdict.replace("_", " "),
        size_in_words(device.peak_bytes),
        size_in_words(device.usable_bytes),
        str(device.steps),
        duration(device.total_seconds),
        "?" if device.gpu_hours is None else f"{device.gpu_hours:.2f}",
    )


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"

"""Sample data for the demo: support tickets as free text, and the fixed JSON format to convert them to.

    user       "Hello, Delina Torberg here. The kettle from order K-20418 leaks."
    assistant  {"customer":"Delina Torberg","order":"K-20418","product":"kettle","problem":"defect"}

All rows are generated from a seed. Held-out rows use names and order numbers that no training row has, so a model that
answers them has learned the format instead of memorising rows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "held_out"]

INSTRUCTION = "Answer with the ticket as JSON."

# Names are built from syllables, so that few rows share one: a model must copy them and cannot memorise them.
SYLLABLES = (
    "al an ar be bor cal dan del der dor el en fer gal han hol in jan kar kel lan len lin lor mal mar mel mer min mor "
    "nar nel nor ol or per ran rel rin ros sal san sel sor tal tan tel tor val van ver vin war wen"
).split()
FIRST_NAME_ENDINGS: dict[Split, list[str]] = {
    "train": "a ard as da e ek et ia ian in ina is ius o on oth ra ulf us".split(),
    "held_out": "iel ric ym".split(),
}
LAST_NAME_ENDINGS: dict[Split, list[str]] = {
    "train": "bach berg by den eck feld ford gren hart ley man mann rup sen ski son ton vik well".split(),
    "held_out": "dale lund wick".split(),
}
ORDER_NUMBERS: dict[Split, range] = {"train": range(10_000, 60_000), "held_out": range(60_000, 99_999)}

PRODUCTS = (
    "kettle", "desk lamp", "rain jacket", "headphones", "office chair", "coffee grinder", "backpack", "bike helmet",
    "tent", "keyboard", "water bottle", "toaster", "running shoes", "phone case", "blender", "wall clock",
)  # fmt: skip

PROBLEMS: dict[str, list[str]] = {
    "late": [
        "My order {order} with the {product} has still not arrived.",
        "I have been waiting two weeks for the {product} from order {order}.",
        "The {product} of order {order} should have been here last Monday.",
    ],
    "defect": [
        "The {product} from order {order} stopped working after a day.",
        "Order {order}: the {product} is broken.",
        "The {product} that came with order {order} has a crack in it.",
    ],
    "wrong": [
        "I ordered a {product} in order {order}, but the box holds something else.",
        "Order {order} was for a {product} in blue and this one is red.",
        "You sent me the wrong size of {product} with order {order}.",
    ],
    "missing": [
        "The {product} of order {order} came without its screws.",
        "A part is missing from the {product} in order {order}.",
        "In order {order} the box for the {product} was half empty.",
    ],
    "refund": [
        "I sent the {product} back and want my money for order {order}.",
        "Please refund order {order}, I no longer need the {product}.",
        "When will I be paid back for the {product} from order {order}?",
    ],
}
GREETINGS = [
    "Hello, {customer} here.",
    "Hi, my name is {customer}.",
    "Good morning, this is {customer}.",
    "{customer} writing again.",
    "Dear team, I am {customer}.",
]


def ticket_rows(split: Split, count: int, *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield chat rows of one split. The same seed gives the same rows; order numbers are unique."""
    draw = random.Random(f"{split} {seed}")  # noqa: S311
    for number in draw.sample(ORDER_NUMBERS[split], count):
        product, problem = draw.choice(PRODUCTS), draw.choice(list(PROBLEMS))
        customer = f"{name_of(draw, FIRST_NAME_ENDINGS[split])} {name_of(draw, LAST_NAME_ENDINGS[split])}"
        order = f"{draw.choice('ABCDEFGHKLMNPRST')}-{number}"
        ticket = f"{draw.choice(GREETINGS)} {draw.choice(PROBLEMS[problem])}"
        answer = {"customer": customer, "order": order, "product": product, "problem": problem}
        yield {
            "messages": [
                {"role": "system", "content": INSTRUCTION},
                {"role": "user", "content": ticket.format(customer=customer, order=order, product=product)},
                {"role": "assistant", "content": json.dumps(answer, separators=(",", ":"))},
            ]
        }


def name_of(draw: random.Random, endings: list[str]) -> str:
    """Return one or two syllables with an ending, which distinguishes training names from held-out ones."""
    return "".join(draw.choices(SYLLABLES, k=draw.choice((1, 2)))).capitalize() + draw.choice(endings)


def write_tickets(path: Path, split: Split, count: int, *, seed: int = 0) -> Path:
    """Write the rows to a JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in ticket_rows(split, count, seed=seed)))
    return path

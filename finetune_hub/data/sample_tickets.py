"""Sample data for the demo: support tickets in free words, and the fixed JSON form that they are to be turned into.

    user       "Hello, Ines Okafor here. The kettle from order K-20418 leaks. Please answer today."
    assistant  {"customer": "Ines Okafor", "order": "K-20418", "product": "kettle", "problem": "defect", "urgent": true}

Everything is generated here from a seed. Held-out rows use names and order numbers that no training row has, so a model
that answers them has learnt the form, and not the rows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "held_out"]

INSTRUCTION = (
    "Turn the support ticket into one line of JSON with the keys customer, order, product, problem and urgent. "
    "Problem is one of late, defect, wrong, missing, refund."
)

FIRST_NAMES: dict[Split, list[str]] = {
    "train": [
        "Ada",
        "Amir",
        "Anneke",
        "Bela",
        "Bruno",
        "Carla",
        "Chidi",
        "Clara",
        "Dario",
        "Dilan",
        "Elena",
        "Emre",
        "Farah",
        "Felix",
        "Gita",
        "Goran",
        "Hana",
        "Hugo",
        "Ines",
        "Ivan",
        "Jana",
        "Jonas",
        "Kaja",
        "Karim",
        "Lara",
        "Liam",
        "Lucia",
        "Magnus",
        "Maya",
        "Mateo",
        "Nadia",
        "Nils",
        "Olga",
        "Oscar",
        "Priya",
        "Rafael",
        "Rosa",
        "Samir",
        "Selma",
        "Tomas",
    ],
    "held_out": [
        "Astrid",
        "Boris",
        "Celine",
        "Dmitri",
        "Edith",
        "Fabio",
        "Greta",
        "Henrik",
        "Isolde",
        "Joaquin",
        "Keiko",
        "Leopold",
        "Mireille",
        "Noor",
    ],
}
LAST_NAMES: dict[Split, list[str]] = {
    "train": [
        "Abbott",
        "Adeyemi",
        "Almeida",
        "Barros",
        "Becker",
        "Castro",
        "Cohen",
        "Dietrich",
        "Dubois",
        "Eriksen",
        "Farkas",
        "Fischer",
        "Garcia",
        "Haddad",
        "Hansen",
        "Ibarra",
        "Ivanova",
        "Jansen",
        "Jensen",
        "Kaplan",
        "Khan",
        "Kowalski",
        "Larsen",
        "Lopez",
        "Meyer",
        "Mishra",
        "Moreau",
        "Nakamura",
        "Novak",
        "Okafor",
        "Olsen",
        "Petrov",
        "Quinn",
        "Rossi",
        "Santos",
        "Schmidt",
        "Silva",
        "Tanaka",
        "Vargas",
        "Weber",
    ],
    "held_out": [
        "Ashworth",
        "Bellweather",
        "Cavendish",
        "Delacroix",
        "Engstrom",
        "Fitzgerald",
        "Gallagher",
        "Holloway",
        "Kirchner",
        "Montague",
    ],
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
CLOSINGS: dict[bool, list[str]] = {
    True: ["Please answer today.", "This is urgent!", "I need a reply within the hour."],
    False: ["Take your time.", "No hurry at all.", "Whenever you get to it.", "Thank you."],
}


def ticket_rows(split: Split, count: int, *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Chat rows of one split: the same seed gives the same rows; no two have the same order number."""
    draw = random.Random(f"{split} {seed}")  # noqa: S311
    for number in draw.sample(ORDER_NUMBERS[split], count):
        product, problem, urgent = draw.choice(PRODUCTS), draw.choice(list(PROBLEMS)), draw.random() < 0.5
        customer = f"{draw.choice(FIRST_NAMES[split])} {draw.choice(LAST_NAMES[split])}"
        order = f"{draw.choice('ABCDEFGHKLMNPRST')}-{number}"
        sentences = [draw.choice(GREETINGS), draw.choice(PROBLEMS[problem]), draw.choice(CLOSINGS[urgent])]
        ticket = " ".join(sentences).format(customer=customer, order=order, product=product)
        answer = {"customer": customer, "order": order, "product": product, "problem": problem, "urgent": urgent}
        yield {
            "messages": [
                {"role": "system", "content": INSTRUCTION},
                {"role": "user", "content": ticket},
                {"role": "assistant", "content": json.dumps(answer)},
            ]
        }


def write_tickets(path: Path, split: Split, count: int, *, seed: int = 0) -> Path:
    """The rows as a JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in ticket_rows(split, count, seed=seed)))
    return path

"""Every address of a hub, made of its routes and of what it holds, and how to come in.

Nothing of the hub's own code: beside the recorded commit it runs too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import httpx

PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
# By the first word of a route: what may stand for its parameters.
Things = dict[str, list[dict[str, Any]]]
# A link that signs somebody in once; the tests come in through one.
LEFT_OUT = "login/link/"


def addresses_of(routes: Iterable[str], things: Things) -> list[str]:
    """The routes with each fitting thing in place of their parameters, in order, each once.

    Raises:
        LookupError: nothing is known that could stand for a parameter.
    """
    found = []
    for route in routes:
        if route.startswith(LEFT_OUT):
            continue
        parameters = PARAMETER.findall(route)
        noun = route.partition("/")[0]
        fitting = [thing for thing in things.get(noun, []) if set(parameters) <= set(thing)] if parameters else [{}]
        if not fitting:
            raise LookupError(f"Nothing in tests/upgrade stands for {parameters} of the route {route!r} ({noun}).")
        found += [PARAMETER.sub(lambda match, thing=thing: str(thing[match[1]]), route) for thing in fitting]
    return list(dict.fromkeys(found))


def sign_in(browser: httpx.Client, address: str, **fields: str) -> None:
    """Send the form of a page that signs in: by a link, or with a password."""
    browser.get(address).raise_for_status()
    answer = browser.post(address, data={"csrfmiddlewaretoken": browser.cookies["csrftoken"], **fields})
    assert answer.status_code == 302, answer.text

"""Call code that uses the database from the event loop, outside of a request: in a few threads of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import close_old_connections

Args = ParamSpec("Args")
Result = TypeVar("Result")


def in_threads(
    threads: ThreadPoolExecutor, function: Callable[Args, Result]
) -> Callable[Args, Coroutine[Any, Any, Result]]:
    """Return a coroutine function that calls this one in one of the threads and closes its database connection."""

    def call(*args: Args.args, **kwargs: Args.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return sync_to_async(call, thread_sensitive=False, executor=threads)

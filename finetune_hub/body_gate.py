"""Who may send how large a request body to which URL of the hub, checked before it is read (`request_bodies`).

    API       the view's `body_limit_bytes`, for tokens that may call the view
    pages     the view's `reads_bodies`, for users with its right; 1 MiB by default, for signed-in users
    anyone    64 KiB without a file, which stays in memory, so that the view itself can refuse the request

The database is queried only for large bodies, bodies of unknown size, and forms with files.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.core.handlers.asgi import ASGIRequest
from django.template.loader import render_to_string
from django.urls import Resolver404, resolve
from rest_framework.renderers import JSONRenderer

from finetune_hub.accounts.models import User
from finetune_hub.accounts.rights import Right, teams_where
from finetune_hub.admission import Scope
from finetune_hub.api.bodies import MAX_JSON_BYTES
from finetune_hub.api.errors import error_body
from finetune_hub.api.statuses import status_of
from finetune_hub.api.views.hub_view import HubView
from finetune_hub.dashboard.middleware import CONTENT_SECURITY_POLICY
from finetune_hub.database_threads import in_threads
from finetune_hub.request_bodies import QUESTIONS_AT_ONCE, SMALL_BODY_BYTES, AnsweredAlready, WholeAnswer, too_large
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.sizes import size_in_words

MAX_FORM_BYTES = 1 << 20

_threads = ThreadPoolExecutor(QUESTIONS_AT_ONCE, thread_name_prefix="gate")


class HubGate:
    """The `Gate` of this hub, which decides by the URL's view."""

    async def limit_bytes(self, scope: Scope, *, announced_bytes: int | None) -> int:
        view, kwargs = _view_of(scope)
        limit_bytes: int = getattr(view, "body_limit_bytes", MAX_JSON_BYTES if _is_api(scope) else MAX_FORM_BYTES)
        if (announced_bytes or 0) > limit_bytes:
            raise too_large(limit_bytes)
        if announced_bytes is None or announced_bytes > SMALL_BODY_BYTES or _has_files(scope):
            await in_threads(_threads, _require_api if _is_api(scope) else _require_page)(scope, view, kwargs)
        return limit_bytes

    async def answer(self, scope: Scope, refusal: Refusal) -> WholeAnswer:
        return await in_threads(_threads, _answer)(scope, refusal)


def _view_of(scope: Scope) -> tuple[Any, dict[str, Any]]:
    """Return the URL's view (in the API its class) and path arguments; None for an unknown URL."""
    try:
        found = resolve(_path(scope))
    except Resolver404:
        return None, {}
    return getattr(found.func, "cls", found.func), found.kwargs


def _require_api(scope: Scope, view_class: Any, kwargs: dict[str, Any]) -> None:
    """
    Raises:
        AnsweredAlready: the view refuses the request before it reads the body.
    """
    if not issubclass(view_class, HubView):  # A view of another library, which reads no body.
        raise too_large(SMALL_BODY_BYTES)
    answer = view_class().refuse_before_body(ASGIRequest(scope, io.BytesIO()), **kwargs)
    if answer is not None:
        headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        raise AnsweredAlready(WholeAnswer(answer.status_code, headers, answer.content))


def _require_page(scope: Scope, view: Any, _kwargs: dict[str, Any]) -> None:
    """
    Raises:
        Refusal: `not_authenticated`, or `forbidden`: the user has the view's right in no team.
    """
    request = ASGIRequest(scope, io.BytesIO())
    sessions = import_module(settings.SESSION_ENGINE)
    request.session = sessions.SessionStore(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
    user = get_user(request)
    right: Right | None = getattr(view, "body_right", None)
    if not isinstance(user, User):
        raise Refusal(
            "not_authenticated",
            f"Without a session you can send at most {size_in_words(SMALL_BODY_BYTES)}, and no file.",
            "Sign in, then send it again.",
            kind="forbidden",
        )
    if right and not teams_where(user, right):
        raise right.refusal()


def _answer(scope: Scope, refusal: Refusal) -> WholeAnswer:
    """Return the refusal as an error of the API, as a page, or as JSON for a page's script."""
    status = status_of(refusal)
    if _is_api(scope):
        return _answer_of(status, b"application/json", JSONRenderer().render(error_body(refusal)))
    headers = dict(scope["headers"])
    if b"hx-request" in headers or b"text/html" in headers.get(b"accept", b""):
        page = render_to_string("refused_body.html", {"problem": refusal.problem, "status": status})
        policy = [(b"content-security-policy", CONTENT_SECURITY_POLICY.encode())]
        return _answer_of(status, b"text/html; charset=utf-8", page.encode(), policy)
    return _answer_of(status, b"application/json", JSONRenderer().render({"message": str(refusal)}))


def _answer_of(status: int, kind: bytes, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> WholeAnswer:
    return WholeAnswer(status, [(b"content-type", kind), *(headers or [])], body)


def _is_api(scope: Scope) -> bool:
    return _path(scope).startswith("/api/")


def _path(scope: Scope) -> str:
    """Return the path below the hub's root path."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))


def _has_files(scope: Scope) -> bool:
    """Return whether the body is a form that may have files, which Django writes to disk."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers.get(b"content-type", b"").lower().startswith(b"multipart/")

"""Middleware for every page: refuse URLs with a NUL, render refusals, set security headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction

from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin

from finetune_hub.api.bodies import refuse_nul
from finetune_hub.dashboard.views.refusals import render_refusal
from finetune_hub.machine.full_disk import disk_full, is_full_disk
from finetune_hub.spec.refusal import Refusal

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ]
)

Handler = Callable[[HttpRequest], HttpResponseBase]
AsyncHandler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


class RefuseNul(MiddlewareMixin):
    """Middleware that refuses a page's URL or form with a NUL, because Postgres fails on a query with one.

    Reading the form also writes its files, so it refuses a full disk as well. The API's views do the same and answer in
    JSON.
    """

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        if request.path.startswith("/api/"):
            return None
        try:
            refuse_nul(request)
            if any("\0" in text for name, texts in request.POST.lists() for text in (name, *texts)):
                raise Refusal("invalid_request", "The form holds a NUL.", "Remove that character.")
        except Refusal as refusal:
            raise SuspiciousOperation(refusal.message) from refusal
        except OSError as error:
            if is_full_disk(error):
                return render_refusal(request, disk_full())
            raise
        return None


class RefusalPages(MiddlewareMixin):
    """Middleware that renders a refusal as a page, if the view did not handle it. The API answers in JSON."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if is_full_disk(exception):
            exception = disk_full()
        return render_refusal(request, exception) if isinstance(exception, Refusal) else None


@sync_and_async_middleware
def security_headers(get_response: Handler | AsyncHandler) -> Handler | AsyncHandler:
    """Add security headers to every response. Only headers change, so streams stay streams."""
    if iscoroutinefunction(get_response):

        async def add_headers_async(request: HttpRequest) -> HttpResponseBase:
            response: HttpResponseBase = await get_response(request)
            return _with_headers(response)

        return add_headers_async

    def add_headers(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        assert isinstance(response, HttpResponseBase)
        return _with_headers(response)

    return add_headers


def _with_headers(response: HttpResponseBase) -> HttpResponseBase:
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    response.headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
    return response

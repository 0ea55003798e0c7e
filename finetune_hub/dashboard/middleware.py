"""What holds for every page: no address with a NUL, a page for a refusal, and headers against what is not ours."""

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
    """Refuses a page's address with a NUL, which no row has, and which Postgres refuses to look for.

    The API's own views do so too, and answer in JSON.
    """

    def process_request(self, request: HttpRequest) -> None:
        if request.path.startswith("/api/"):
            return
        try:
            refuse_nul(request)
        except Refusal as refusal:
            raise SuspiciousOperation(refusal.message) from refusal


class RefusalPages(MiddlewareMixin):
    """What an action refuses, and its view has no better place for, as a page. The API's views answer in JSON."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return render_refusal(request, exception) if isinstance(exception, Refusal) else None


@sync_and_async_middleware
def security_headers(get_response: Handler | AsyncHandler) -> Handler | AsyncHandler:
    """Adds the policy to every response. It only touches headers, so a stream stays a stream."""
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

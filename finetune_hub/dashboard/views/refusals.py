"""What the service refuses, as a page: what is wrong, and what to do."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def render_refusal(request: HttpRequest, message: str, remedy: str, *, status: int) -> HttpResponse:
    return render(request, "refusal.html", {"message": message, "remedy": remedy, "status": status}, status=status)

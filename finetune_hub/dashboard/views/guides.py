"""Guide pages: the index with search, and one guide."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from finetune_hub.dashboard import guides
from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.dashboard.guide_search import MAX_QUERY_CHARACTERS, search


@login_required
@require_safe
def show_docs(request: MemberRequest) -> HttpResponse:
    """Show the index, or search results."""
    query = request.GET.get("q", "").strip()[:MAX_QUERY_CHARACTERS]
    context = {"groups": guides.groups(), "query": query, "hits": search(query) if query else []}
    return render(request, "docs/index.html", context)


@login_required
@require_safe
def show_guide(request: MemberRequest, name: str) -> HttpResponse:
    try:
        guide = guides.guide(name)
    except KeyError:
        raise Http404 from None
    before, after = guides.neighbours(name)
    context = {"groups": guides.groups(), "guide": guide, "before": before, "after": after}
    return render(request, "docs/guide.html", context)

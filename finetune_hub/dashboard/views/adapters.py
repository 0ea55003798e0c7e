"""Adapter pages: the list, one version with its files and lineage, and downloads."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.models import BaseModel
from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.dashboard.paging import page_of
from finetune_hub.dashboard.views.refusals import not_given, render_refusal
from finetune_hub.jobs.models import Job
from finetune_hub.registry import downloads
from finetune_hub.registry.model_card import usage
from finetune_hub.registry.models import Adapter, AdapterVersion
from finetune_hub.spec.refusal import Refusal


@login_required
@require_safe
def list_adapters(request: MemberRequest) -> HttpResponse:
    page = page_of(request, Adapter.objects.visible_to(request.user).for_list())
    return render(request, "adapters/list.html", {"page": page})


@login_required
@require_safe
def show_adapter(request: MemberRequest, adapter_id: str, number: int | None = None) -> HttpResponse:
    """Show one version of an adapter, by default the newest."""
    visible = Adapter.objects.visible_to(request.user).select_related("base_model", "team")
    adapter = get_object_or_404(visible, pk=adapter_id)
    versions = list(adapter.versions.alive())
    shown = next((version for version in versions if number in {None, version.number}), None)
    if shown is None:
        raise Http404
    context = {
        "adapter": adapter,
        "versions": versions,
        "shown": shown,
        "files": shown.files.all(),
        "origins": shown.lineage.select_related("dataset_version__dataset", "parent__adapter"),
        "job": Job.objects.visible_to(request.user).filter(publications__adapter_version=shown).first(),
        "evaluations": shown.evaluations.shown().for_list().defer(None),
        "usage": usage(place_of(adapter.base_model), downloads.folder_name(shown)),
    }
    return render(request, "adapters/detail.html", context)


@login_required
@require_safe
def download_file(request: MemberRequest, adapter_id: str, number: int, path: str) -> HttpResponseBase:
    version = find_version(request, adapter_id, number)
    try:
        file, name = downloads.find_file(version, path), path.rpartition("/")[2]
    except Refusal as refusal:
        return render_refusal(request, refusal, status=404)
    try:
        return downloads.file_response(
            request,
            f"{version.artifact_prefix}/{path}",
            filename=name,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            may_redirect=True,
        )
    except ArtifactError as error:
        return render_refusal(request, not_given(error))


@login_required
@require_safe
def download_zip(request: MemberRequest, adapter_id: str, number: int) -> HttpResponseBase:
    version = find_version(request, adapter_id, number)
    return downloads.streaming_response(
        request,
        lambda: downloads.stream_zip(version),
        filename=downloads.zip_name(version),
        size_bytes=downloads.zip_size_bytes(version),
    )


def find_version(request: MemberRequest, adapter_id: str, number: int) -> AdapterVersion:
    """Return the version.

    Raises:
        Http404: the user cannot see such a version.
    """
    visible = Adapter.objects.visible_to(request.user).filter(pk=adapter_id)
    return get_object_or_404(
        AdapterVersion.objects.alive().select_related("adapter"), adapter__in=visible, number=number
    )


def place_of(base_model: BaseModel) -> str:
    """Return where to load the base model's files from: a folder or a URL of the store."""
    folder = shared_store(settings.ARTIFACT_URL).local_folder(base_model.artifact_prefix)
    return str(folder) if folder else downloads.artifact_url(base_model.artifact_prefix)

"""The pages of datasets: the list, one with its versions, what a base model sees of its rows, and the upload."""

from __future__ import annotations

from pathlib import Path

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.catalog.actions import add_dataset_version
from finetune_hub.catalog.downloads import downloads_of, find_download
from finetune_hub.catalog.models import BaseModel, BaseModelQuerySet, Dataset, DatasetVersion
from finetune_hub.catalog.preview import SHOWN_TOKENS, preview_row, token_statistics
from finetune_hub.dashboard.access import MemberRequest, may_submit_in, submitting_teams
from finetune_hub.dashboard.forms import DatasetUploadForm, PreviewForm
from finetune_hub.dashboard.histogram import draw_bars
from finetune_hub.dashboard.paging import page_of
from finetune_hub.dashboard.views.refusals import render_refusal
from finetune_hub.registry.downloads import FileChunks, streaming_response
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import TrainingOptions


@login_required
@require_safe
def list_datasets(request: MemberRequest) -> HttpResponse:
    page = page_of(request, Dataset.objects.visible_to(request.user).for_list())
    return render(request, "datasets/list.html", {"page": page})


@login_required
@require_safe
def show_dataset(request: MemberRequest, dataset_id: str, number: int | None = None) -> HttpResponse:
    """The dataset at one version; at its newest when none is named."""
    dataset = get_object_or_404(Dataset.objects.visible_to(request.user), pk=dataset_id)
    versions = list(dataset.versions.select_related("created_by").for_list())
    shown = dataset.versions.filter(number=number or (versions[0].number if versions else 0)).first()
    if shown is None:
        raise Http404
    context = {
        "dataset": dataset,
        "versions": versions,
        "shown": shown,
        "downloads": downloads_of(shown),
        "base_models": BaseModel.objects.ready().filter(team_id=dataset.team_id).order_by("name"),
        "max_seq_len": TrainingOptions().max_seq_len,
        "may_train": may_submit_in(request.user, dataset.team_id),
    }
    return render(request, "datasets/detail.html", context)


@login_required
@require_safe
def preview(request: MemberRequest, dataset_id: str, number: int) -> HttpResponse:
    """One row as a base model sees it: a fragment of the dataset's page."""
    version = find_version(request, dataset_id, number)
    look = PreviewForm(request.GET)
    if not look.is_valid():
        return refused(request, "This is no row to look at.", "Write whole numbers, 1 or more.")
    base_model = get_object_or_404(_base_models(version), pk=look.cleaned_data["base_model"])
    try:
        row = preview_row(version, base_model, look.cleaned_data["row"], look.cleaned_data["max_seq_len"])
    except Refusal as refusal:
        return refused(request, refusal.message, refusal.remedy)
    except ArtifactError as error:
        return refused(request, "The artifact store did not give the file.", str(error))
    context = {"row": row, "shown": version, "shown_tokens": SHOWN_TOKENS}
    return render(request, "datasets/_preview.html", context)


@login_required
@require_safe
def show_lengths(request: MemberRequest, dataset_id: str, number: int) -> HttpResponse:
    """How long all rows are for a base model: a fragment of the dataset's page."""
    version = find_version(request, dataset_id, number)
    look = PreviewForm(request.GET)
    if not look.is_valid():
        return refused(request, "There is nothing to measure by.", "Write whole numbers, 1 or more.")
    base_model = get_object_or_404(_base_models(version), pk=look.cleaned_data["base_model"])
    try:
        lengths = token_statistics(version, base_model, look.cleaned_data["max_seq_len"])
    except Refusal as refusal:
        return refused(request, refusal.message, refusal.remedy)
    except ArtifactError as error:
        return refused(request, "The artifact store did not give the file.", str(error))
    context = {"lengths": lengths, "bars": draw_bars(lengths), "shown": version}
    return render(request, "datasets/_lengths.html", context)


@login_required
@require_safe
def download_file(request: MemberRequest, dataset_id: str, number: int, name: str) -> HttpResponseBase:
    """The rows, the upload as it came, or what was set aside."""
    try:
        file = find_download(find_version(request, dataset_id, number), name)
        chunks = FileChunks(file.open())
    except Refusal as refusal:
        return render_refusal(request, refusal.message, refusal.remedy, status=404)
    except ArtifactError as error:
        return render_refusal(request, "The artifact store did not give the file.", str(error), status=503)
    return streaming_response(request, chunks, filename=file.name, size_bytes=file.size_bytes)


def find_version(request: MemberRequest, dataset_id: str, number: int) -> DatasetVersion:
    dataset = get_object_or_404(Dataset.objects.visible_to(request.user), pk=dataset_id)
    return get_object_or_404(dataset.versions.select_related("dataset"), number=number)


def refused(request: MemberRequest, message: str, remedy: str) -> HttpResponse:
    """Why there is no preview, in its place."""
    return render(request, "datasets/_refused.html", {"message": message, "remedy": remedy})


def _base_models(version: DatasetVersion) -> BaseModelQuerySet:
    return BaseModel.objects.ready().filter(team_id=version.dataset.team_id)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def upload_dataset(request: MemberRequest) -> HttpResponse:
    teams = submitting_teams(request.user)
    if request.method != "POST":
        initial = {"name": request.GET.get("name", "")}
        return render(request, "datasets/upload.html", {"form": DatasetUploadForm(teams=teams, initial=initial)})
    form = DatasetUploadForm(request.POST, request.FILES, teams=teams)
    defects = []
    if form.is_valid():
        upload: TemporaryUploadedFile = form.cleaned_data["file"]
        try:
            version = add_dataset_version(
                form.team,
                request.user,
                name=form.cleaned_data["name"],
                file=Path(upload.temporary_file_path()),
                filename=upload.name or "upload",
                mapping=form.mapping or None,
                on_error="quarantine" if form.cleaned_data["quarantine"] else "refuse",
            )
        except Refusal as refusal:
            form.add_refusal(refusal)
            defects = refusal.details if refusal.code == "invalid_dataset" else []
        else:
            aside = f", and {version.rejected_count:,} set aside" if version.rejected_count else ""
            messages.success(request, f"{version} is ready: {version.row_count:,} rows{aside}.")
            return redirect("dataset-version", version.dataset_id, version.number)
    return render(request, "datasets/upload.html", {"form": form, "defects": defects}, status=422)

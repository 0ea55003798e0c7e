"""The pages of datasets: the list, one dataset with its versions and first rows, and the upload."""

from __future__ import annotations

from pathlib import Path

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from finetune_hub.catalog.actions import add_dataset_version
from finetune_hub.catalog.models import Dataset
from finetune_hub.dashboard.access import MemberRequest, may_submit_in, submitting_teams
from finetune_hub.dashboard.forms import DatasetUploadForm
from finetune_hub.dashboard.paging import page_of
from finetune_hub.spec.refusal import Refusal


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
    versions = list(dataset.versions.select_related("created_by").defer("first_rows"))
    shown = dataset.versions.filter(number=number or (versions[0].number if versions else 0)).first()
    if shown is None:
        raise Http404
    context = {
        "dataset": dataset,
        "versions": versions,
        "shown": shown,
        "may_train": may_submit_in(request.user, dataset.team_id),
    }
    return render(request, "datasets/detail.html", context)


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
            )
        except Refusal as refusal:
            form.add_refusal(refusal)
            defects = refusal.details
        else:
            messages.success(request, f"{version} is ready: {version.row_count:,} rows.")
            return redirect("dataset-version", version.dataset_id, version.number)
    return render(request, "datasets/upload.html", {"form": form, "defects": defects}, status=422)

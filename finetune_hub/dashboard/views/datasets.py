"""Dataset pages: the list, one dataset with its versions, upload and import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right
from finetune_hub.api.bodies import FORM_OVERHEAD_BYTES
from finetune_hub.catalog.actions import add_dataset_version
from finetune_hub.catalog.dataset_downloads import downloads_of
from finetune_hub.catalog.models import BaseModel, Dataset, DatasetVersion, Deletion, Upload
from finetune_hub.catalog.uploads import finished_file, forget_upload
from finetune_hub.dashboard.access import MemberRequest, reads_bodies, teams_for
from finetune_hub.dashboard.forms import DatasetImportForm, DatasetUploadForm
from finetune_hub.dashboard.paging import page_of
from finetune_hub.dashboard.views.uploads import find_own_upload
from finetune_hub.jobs.kinds.dataset_import import import_dataset
from finetune_hub.jobs.models import Job
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import TrainingOptions

COMPARABLE = 200  # How many of the team's newest versions to offer for comparison.


@login_required
@require_safe
def list_datasets(request: MemberRequest) -> HttpResponse:
    page = page_of(request, Dataset.objects.visible_to(request.user).for_list())
    return render(request, "datasets/list.html", {"page": page})


@login_required
@require_safe
def show_dataset(request: MemberRequest, dataset_id: str, number: int | None = None) -> HttpResponse:
    """Show one version of a dataset, by default the newest."""
    dataset = get_object_or_404(Dataset.objects.visible_to(request.user).select_related("team"), pk=dataset_id)
    versions = list(dataset.versions.select_related("created_by").for_list())
    whole = dataset.versions.select_related("parent__dataset", "deleted_by")
    shown = whole.filter(number=number or (versions[0].number if versions else 0)).first()
    if shown is None:
        raise Http404
    context = {
        "dataset": dataset,
        "versions": versions,
        "shown": shown,
        "restorable": Deletion.objects.restorable().filter(pk=shown.deletion_id).first(),
        "downloads": {} if shown.deleted_at else downloads_of(shown),
        "others": comparable_with(shown),
        "base_models": BaseModel.objects.ready().filter(team_id=dataset.team_id).order_by("name"),
        "max_seq_len": TrainingOptions().max_seq_len,
    }
    return render(request, "datasets/detail.html", context)


def comparable_with(shown: DatasetVersion) -> list[DatasetVersion]:
    """Return other versions of the dataset and the newest of the team's other datasets, newest first."""
    alive = DatasetVersion.objects.alive().for_list().filter(dataset__team_id=shown.dataset.team_id)
    rows = alive.exclude(pk=shown.pk).select_related("dataset").order_by("-pk")[:COMPARABLE]
    seen: set[str] = set()
    others = []
    for version in rows:
        if version.dataset_id == shown.dataset_id or version.dataset_id not in seen:
            others.append(version)
        seen.add(version.dataset_id)
    return sorted(others, key=lambda version: version.dataset_id != shown.dataset_id)


@reads_bodies(settings.DATASET_UPLOAD_MAX_BYTES + FORM_OVERHEAD_BYTES, Right.ADD_DATASET)
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def upload_dataset(request: MemberRequest) -> HttpResponse:
    teams = teams_for(Right.ADD_DATASET, request.user)
    if request.method != "POST":
        return render_upload(request, teams, **mapping_asked(request, teams))
    form = DatasetUploadForm(request.POST, request.FILES, teams=teams)
    defects = []
    if form.is_valid():
        parted = find_own_upload(request, form.cleaned_data["upload"]) if form.cleaned_data["upload"] else None
        try:
            path, file_name = file_of(form.cleaned_data["file"], parted, request.user)
            version = add_dataset_version(
                form.team,
                request.user,
                name=form.cleaned_data["name"],
                file=path,
                filename=file_name,
                mapping=form.mapping or None,
                on_error="quarantine" if form.cleaned_data["quarantine"] else "refuse",
            )
        except Refusal as refusal:
            form.add_refusal(refusal)
            defects = refusal.details if refusal.code == "invalid_dataset" else []
        else:
            if parted:
                forget_upload(parted, request.user)
            aside = f", and {version.rejected_count:,} set aside" if version.rejected_count else ""
            messages.success(request, f"{version} is ready: {version.row_count:,} rows{aside}.")
            return redirect("dataset-version", version.dataset_id, version.number)
    return render_upload(request, teams, form=form, defects=defects, status=422)


@login_required
@require_POST
def fetch_dataset(request: MemberRequest) -> HttpResponse:
    """Let a worker import a dataset from Hugging Face or a URL."""
    teams = teams_for(Right.IMPORT_DATASET, request.user)
    form = DatasetImportForm(request.POST, teams=teams, auto_id="fetch_%s")
    if form.is_valid():
        given = form.cleaned_data
        try:
            job = import_dataset(
                form.team,
                request.user,
                name=given["name"],
                source=given["source"],
                mapping=form.mapping or None,
                on_error="quarantine" if given["quarantine"] else "refuse",
            )
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            return redirect("job", job.pk)
    return render_upload(request, teams, fetch_form=form, status=422)


def mapping_asked(request: MemberRequest, teams: list[Team]) -> dict[str, Any]:
    """Return the form for `?map=JOB`: import the job's dataset again, with a mapping of its unknown columns."""
    fetches = Job.objects.visible_to(request.user).filter(team__in=teams)
    job = fetches.filter(pk=request.GET.get("map", ""), result__has_key="unknown_columns").first()
    if job is None or job.result is None:
        return {}
    initial = {
        "team": job.team.slug,
        "name": job.spec["name"],
        "source": job.spec["source"],
        "quarantine": job.spec["on_error"] == "quarantine",
    }
    form = DatasetImportForm(teams=teams, initial=initial, auto_id="fetch_%s")
    form.columns = job.result["unknown_columns"]
    return {"fetch_form": form}


def render_upload(request: MemberRequest, teams: list[Team], *, status: int = 200, **context: Any) -> HttpResponse:
    """Render the page with the given forms, or new ones."""
    initial = {"name": request.GET.get("name", "")}
    context.setdefault("form", DatasetUploadForm(teams=teams, initial=initial))
    context.setdefault("fetch_form", DatasetImportForm(teams=teams, initial=initial, auto_id="fetch_%s"))
    return render(request, "datasets/upload.html", context, status=status)


def file_of(file: TemporaryUploadedFile | None, parted: Upload | None, user: User) -> tuple[Path, str]:
    """Return path and file name of the file sent with the form or uploaded in parts before.

    Raises:
        Refusal: `upload_unfinished`, `upload_damaged`.
    """
    if parted:
        return finished_file(parted, user), parted.file_name
    assert file is not None, "the form asks for one of them"
    return Path(file.temporary_file_path()), file.name or "upload"

"""Parts of a dataset's page for one version, and its actions: split, delete, download."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.catalog.compare import compare_versions
from finetune_hub.catalog.dataset_downloads import find_download
from finetune_hub.catalog.models import BaseModel, BaseModelQuerySet, Dataset, DatasetVersion
from finetune_hub.catalog.preview import preview_row, token_statistics
from finetune_hub.catalog.search import find_rows
from finetune_hub.catalog.split import split_version
from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.dashboard.forms import PreviewForm, SplitForm
from finetune_hub.dashboard.histogram import draw_bars
from finetune_hub.dashboard.views.refusals import not_given, render_refusal
from finetune_hub.data.token_preview import SHOWN_TOKENS
from finetune_hub.operations.deletion.actions import delete_thing
from finetune_hub.operations.deletion.deletable import Target
from finetune_hub.registry.downloads import file_response
from finetune_hub.spec.numbers import number_of
from finetune_hub.spec.refusal import Refusal

WHOLE_NUMBERS = "Enter whole numbers, 1 or more."
FragmentView = Callable[[MemberRequest, str, int], HttpResponse]


def says_why_not(view: FragmentView) -> FragmentView:
    """Wrap a view of a fragment, so that a refusal is shown in the fragment's place."""

    @wraps(view)
    def answer(request: MemberRequest, dataset_id: str, number: int) -> HttpResponse:
        try:
            return view(request, dataset_id, number)
        except Refusal as refusal:
            return refused(request, refusal)
        except ArtifactError as error:
            return refused(request, not_given(error))

    return answer


@login_required
@require_safe
@says_why_not
def preview(request: MemberRequest, dataset_id: str, number: int) -> HttpResponse:
    """Render the fragment that shows a row as a base model sees it."""
    version = find_version(request, dataset_id, number)
    look = PreviewForm(request.GET)
    if not look.is_valid():
        return refused(
            request, Refusal("invalid_request", "The row, base model or context length is not valid.", WHOLE_NUMBERS)
        )
    base_model = get_object_or_404(_base_models(version), pk=look.cleaned_data["base_model"])
    row = preview_row(version, base_model, look.cleaned_data["row"], look.cleaned_data["max_seq_len"])
    context = {"row": row, "shown": version, "shown_tokens": SHOWN_TOKENS}
    return render(request, "datasets/_preview.html", context)


@login_required
@require_safe
@says_why_not
def show_lengths(request: MemberRequest, dataset_id: str, number: int) -> HttpResponse:
    """Render the fragment that shows how long all rows are for a base model."""
    version = find_version(request, dataset_id, number)
    look = PreviewForm(request.GET)
    if not look.is_valid():
        return refused(
            request, Refusal("invalid_request", "The base model or context length is not valid.", WHOLE_NUMBERS)
        )
    base_model = get_object_or_404(_base_models(version), pk=look.cleaned_data["base_model"])
    lengths = token_statistics(version, base_model, look.cleaned_data["max_seq_len"])
    context = {"lengths": lengths, "bars": draw_bars(lengths), "shown": version}
    return render(request, "datasets/_lengths.html", context)


@login_required
@require_safe
@says_why_not
def search_rows(request: MemberRequest, dataset_id: str, number: int) -> HttpResponse:
    """Render the fragment of rows that contain the given words."""
    version = find_version(request, dataset_id, number)
    words, after = request.GET.get("q", ""), request.GET.get("after", "0")
    found = find_rows(version, words.replace("\0", ""), after=number_of(after) or 0)
    return render(request, "datasets/_found.html", {"found": found, "shown": version, "words": words})


@login_required
@require_safe
@says_why_not
def compare(request: MemberRequest, dataset_id: str, number: int) -> HttpResponse:
    """Render the fragment that compares with another version."""
    version = find_version(request, dataset_id, number)
    others = DatasetVersion.objects.alive().filter(dataset__team=version.dataset.team).select_related("dataset")
    other = get_object_or_404(others, pk=number_of(request.GET.get("other", "")) or 0)
    found = compare_versions(version, other)
    return render(request, "datasets/_comparison.html", {"found": found, "shown": version, "other": other})


@login_required
@require_POST
def split(request: MemberRequest, dataset_id: str, number: int) -> HttpResponse:
    """Split off held-out rows."""
    version = find_version(request, dataset_id, number)
    require_right(Right.SPLIT_DATASET, request.user, version.dataset.team)
    form = SplitForm(request.POST)
    if not form.is_valid():
        return render_refusal(
            request, Refusal("invalid_request", "The share or seed is not valid.", "Hold out 1 to 90 percent.")
        )
    train, held_out = split_version(
        version, request.user, fraction=form.cleaned_data["percent"] / 100, seed=form.cleaned_data["seed"]
    )
    messages.success(request, f"{held_out} has the {held_out.row_count:,} held-out rows; {train} has the others.")
    return redirect("dataset-version", train.dataset_id, train.number)


@login_required
@require_POST
def delete(request: MemberRequest, dataset_id: str, number: int) -> HttpResponse:
    """Delete a version, from an open page of an older release."""
    version = find_version(request, dataset_id, number)
    delete_thing(Target("dataset", dataset_id, number), request.user)
    messages.success(request, f"The rows of {version} are deleted.")
    return redirect("dataset-version", version.dataset_id, version.number)


@login_required
@require_safe
def download_file(request: MemberRequest, dataset_id: str, number: int, name: str) -> HttpResponseBase:
    """Download the rows, the original upload, or the rejected rows."""
    try:
        file = find_download(find_version(request, dataset_id, number), name)
        return file_response(request, file.key, filename=file.name, size_bytes=file.size_bytes, sha256=file.sha256)
    except ArtifactError as error:
        return render_refusal(request, not_given(error))


def find_version(request: MemberRequest, dataset_id: str, number: int) -> DatasetVersion:
    dataset = get_object_or_404(Dataset.objects.visible_to(request.user), pk=dataset_id)
    return get_object_or_404(dataset.versions.select_related("dataset__team"), number=number)


def refused(request: MemberRequest, refusal: Refusal) -> HttpResponse:
    """Render a refusal in the fragment's place."""
    return render(request, "_problem.html", {"problem": refusal.problem})


def _base_models(version: DatasetVersion) -> BaseModelQuerySet:
    return BaseModel.objects.ready().filter(team_id=version.dataset.team_id)

"""Job pages: the list, one job with its stream, curve and actions, and the form for a new job."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from pydantic import ValidationError

from finetune_hub.accounts.models import Membership, Team, User
from finetune_hub.accounts.rights import Right, Standing
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.dashboard.access import MemberRequest, memberships_of, standing_of, teams_for
from finetune_hub.dashboard.curve import curve_points
from finetune_hub.dashboard.datasets_field import Picked
from finetune_hub.dashboard.job_parts import attempts_of, history_of, log_of, summary_of
from finetune_hub.dashboard.kind_form import KindForm
from finetune_hub.dashboard.live import Cursor, Watcher
from finetune_hub.dashboard.model_fields import purpose_of
from finetune_hub.dashboard.paging import page_of
from finetune_hub.dashboard.plan_panel import bars_of
from finetune_hub.dashboard.templatetags.hub import recipe
from finetune_hub.dashboard.training_form import WHEN_AND_WHERE, TrainingForm, choice_of, dataset_value, initial_from
from finetune_hub.event_streams import event_stream
from finetune_hub.jobs.kinds.kind import KINDS
from finetune_hub.jobs.kinds.training import submit_training
from finetune_hub.jobs.models import (
    ENDED_JOB_STATES,
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    Job,
    JobState,
    Publication,
)
from finetune_hub.jobs.planning import plan_training, presets_for
from finetune_hub.jobs.steering import (
    cancel_job,
    change_priority,
    copied_spec,
    pause_job,
    preempt_job,
    resume_job,
    retry_job,
)
from finetune_hub.scheduling.presets import DEFAULT_PRESET
from finetune_hub.spec.numbers import number_of
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import DatasetChoice, TrainingSpec

SHOWN_CHILDREN = 100
OFFERED_PREDECESSORS = 50  # How many of the newest unfinished jobs a new one may wait for.

# The list's filters and the states they include.
VIEWS = {
    "waiting": [JobState.VALIDATING, JobState.QUEUED],
    "running": [JobState.RUNNING],
    "paused": [JobState.PAUSED],
    "succeeded": [JobState.SUCCEEDED],
    "failed": [JobState.FAILED],
    "cancelled": [JobState.CANCELLED],
}


@login_required
@require_safe
def list_jobs(request: MemberRequest) -> HttpResponse:
    """List jobs, newest first; `?show=` selects a filter."""
    jobs = Job.objects.visible_to(request.user).for_list()
    shown = request.GET.get("show", "")
    if shown in VIEWS:
        jobs = jobs.filter(state__in=VIEWS[shown])
    page = page_of(request, jobs)
    context = {"page": page, "shown": shown, "views": VIEWS, "is_live": not all(job.has_ended for job in page)}
    return render(request, "jobs/list.html", context)


@login_required
@require_safe
def show_job(request: MemberRequest, job_id: str) -> HttpResponse:
    job = Job.objects.visible_to(request.user).for_page().filter(pk=job_id).first()
    memberships = memberships_of(request.user)
    if job is None:
        raise gone_or_unknown(memberships, job_id)
    standing = standing_of(request.user, memberships)
    summary = summary_of(job)
    publications = Publication.objects.filter(job=job, adapter_version__deletion=None).select_related(
        "adapter_version__adapter"
    )
    context = {
        **summary,
        **history_of(job),
        **attempts_of(job),
        **log_of(job),
        "cursor": Cursor(job.event_count),
        "publications": publications,
        "children": () if job.of_kind.needs_device else job.children.shown().for_list()[:SHOWN_CHILDREN],
        **job.readable_kind.page_context(job),
        "checkpoints": job.checkpoints.only("job_id", "step"),
        "priorities": priorities_of(standing, job),
        "memberships": memberships,
        "standing": standing,
    }
    return render(request, job.readable_kind.page_template, context)


def gone_or_unknown(memberships: list[Membership], job_id: str) -> Refusal | Http404:
    """Return what to raise for a job that is not shown: links to deleted jobs stay in e-mails and in the usage."""
    teams = [membership.team_id for membership in memberships]
    job = Job.objects.filter(team__in=teams, pk=job_id).select_related("team", "deletion").first()
    if job is None or job.deletion is None:
        return Http404()
    return Refusal(
        "already_deleted",
        f"{job.pk} was deleted on {job.deletion.deleted_at:%d %B %Y}.",
        f"Until {job.deletion.purge_after:%d %B %Y}, it can be restored from the trash of {job.team.name}.",
        kind="gone",
    )


@login_required
@require_safe
def show_metrics(request: MemberRequest, job_id: str) -> HttpResponse:
    """Return the curve as JSON, after `?after=STEP`."""
    job = get_object_or_404(Job.objects.visible_to(request.user), pk=job_id)
    after = request.GET.get("after", "0")
    return JsonResponse({"points": curve_points(job, after=number_of(after) or 0)})


@login_required
@require_safe
async def watch_job(request: HttpRequest, job_id: str) -> StreamingHttpResponse:
    """Stream news as server-sent events, after `Last-Event-ID` or `?after=`."""
    user = await request.auser()
    if not isinstance(user, User) or not await Job.objects.visible_to(user).filter(pk=job_id).aexists():
        raise Http404
    cursor = Cursor.parse(request.headers.get("Last-Event-ID") or request.GET.get("after", ""))
    watcher = Watcher(user.pk, cursor, {"state": request.GET.get("state", "")})
    return event_stream(request, watcher.stream(job_id))


@login_required
@require_POST
def pause(request: MemberRequest, job_id: str) -> HttpResponse:
    return steer(request, job_id, lambda job: pause_job(job.pk, request.user))


@login_required
@require_POST
def resume(request: MemberRequest, job_id: str) -> HttpResponse:
    return steer(request, job_id, lambda job: resume_job(job.pk, request.user))


@login_required
@require_POST
def preempt(request: MemberRequest, job_id: str) -> HttpResponse:
    return steer(request, job_id, lambda job: preempt_job(job.pk, request.user))


@login_required
@require_POST
def cancel(request: MemberRequest, job_id: str) -> HttpResponse:
    return steer(request, job_id, lambda job: cancel_job(job.pk, request.user))


@login_required
@require_POST
def retry(request: MemberRequest, job_id: str) -> HttpResponse:
    """Retry the job from the checkpoint at `from_step`, by default the newest."""
    from_step = number_of(request.POST.get("from_step", ""))
    return steer(request, job_id, lambda job: retry_job(job.pk, request.user, from_step=from_step))


@login_required
@require_POST
def set_priority(request: MemberRequest, job_id: str) -> HttpResponse:
    number = re.fullmatch(r"-?\d{1,3}", request.POST.get("priority", ""))
    priority = int(number[0]) if number else 0
    return steer(request, job_id, lambda job: change_priority(job.pk, request.user, priority))


def steer(request: MemberRequest, job_id: str, do: Callable[[Job], object]) -> HttpResponse:
    """Apply an action to a job that the user can see, and redirect to its page.

    Raises:
        Http404: the job is in none of the user's teams.
        Refusal: the action was refused.
    """
    do(get_object_or_404(Job.objects.visible_to(request.user), pk=job_id))
    return redirect("job", job_id)


def priorities_of(standing: Standing, job: Job) -> range:
    """Return the priorities the user may choose, highest first, including the one an admin has set."""
    highest = HIGHEST_PRIORITY if standing.may(Right.RAISE_PRIORITY, job.team) else max(0, job.priority)
    return range(highest, LOWEST_PRIORITY - 1, -1)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_job(request: MemberRequest) -> HttpResponse:
    """Show or submit the form. With `show_recipe`, nothing is submitted: the form shows the job as YAML and curl.

    With `fill`, the form is filled in by a preset; with `more_datasets`, it gets a line for another dataset.
    """
    teams = teams_for(Right.SUBMIT_JOB, request.user)
    if "fill" in request.POST:
        return render(request, "jobs/new.html", {"form": preset_form(request, teams)})
    form = training_form(request, teams)
    if "more_datasets" in request.POST:
        return render(request, "jobs/new.html", {"form": form, "more_datasets": True})
    if "show_recipe" in request.POST:
        return render(request, "jobs/new.html", {"form": form, "shows_recipe": form.is_valid()})
    if request.method == "POST" and form.is_valid():
        try:
            job = submit_training(
                form.team,
                request.user,
                form.spec,
                idempotency_key=form.idempotency_key(),
                allow_unfit=form.cleaned_data["allow_unfit"],
                **form.place_in_line(),
            )
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            messages.success(request, "Submitted. The rows are validated, then the job waits for a device.")
            return redirect("job", job.pk)
    context: dict[str, Any] = {"form": form}
    if request.method == "GET" and "like" not in request.GET:
        context |= {"opens_with_preset": True, "default_preset": DEFAULT_PRESET}
    return render(request, "jobs/new.html", context, status=422 if form.is_bound else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_job_of_kind(request: MemberRequest, kind: str) -> HttpResponse:
    """Show or submit the form of a kind that declares its options. A GET query sets fields: `?adapter=tickets@2`."""
    of_kind = KINDS.get(kind)
    if of_kind is None or of_kind.options is None:
        raise Http404
    teams, initial = teams_for(Right.SUBMIT_JOB, request.user), {**request.GET.dict(), "form_token": str(uuid4())}
    form = KindForm(request.POST or None, kind=of_kind, teams=teams, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            job = of_kind.submit(form.team, request.user, form.options, idempotency_key=form.idempotency_key())
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            return redirect("job", job.pk)
    context = {"form": form, "kind": of_kind, "about": purpose_of(of_kind.options)}
    return render(request, "jobs/new_of_kind.html", context, status=422 if form.is_bound else 200)


@login_required
@require_POST
def plan_job(request: MemberRequest) -> HttpResponse:
    """Render the plan panel for the form's current values."""
    form = training_form(request, teams_for(Right.PLAN_JOB, request.user))
    if not form.is_valid():
        return render(request, "jobs/_plan.html", {"answer": None})
    try:
        answer = plan_training(form.team, form.spec)
    except Refusal as refusal:
        return render(request, "jobs/_plan.html", {"refusal": refusal})
    return render(request, "jobs/_plan.html", {"answer": answer, "bars": bars_of(answer)})


@login_required
@require_safe
def download_recipe(request: MemberRequest, job_id: str) -> HttpResponse:
    """Download the job's spec as a file for `finetune-hub jobs submit` or `finetune-hub train`."""
    job = get_object_or_404(Job.objects.visible_to(request.user), pk=job_id)
    if job.readable_kind.spec_to_submit(job) is None:
        raise Http404
    headers = {"Content-Disposition": f'attachment; filename="{job.pk}.yaml"'}
    return HttpResponse(recipe(job.spec), content_type="application/yaml", headers=headers)


def training_form(
    request: MemberRequest, teams: list[Team], *, filled_from: TrainingSpec | None = None
) -> TrainingForm:
    """Return the form as sent, or filled in from a spec or from `?like=JOB`, `?dataset=` and `?base_model=`."""
    versions = list(
        DatasetVersion.objects.alive().filter(dataset__team__in=teams).select_related("dataset").order_by("-pk")
    )
    ready = BaseModel.objects.filter(team__in=teams).ready()
    # Models with a chat template first, as the first one is preselected.
    base_models = sorted(ready, key=lambda model: (model.lacks_chat_template, model.name))
    initial: dict[str, Any] = {"form_token": uuid4().hex}
    if versions:
        initial["dataset"] = [Picked(dataset_value(versions[0]))]
    model = Job.objects.visible_to(request.user).filter(pk=request.GET.get("like", "")).first()
    if model and model.readable_kind.spec_to_submit(model):
        initial |= initial_from(copied_spec(model, {}))
    initial |= {"base_model": request.GET["base_model"]} if "base_model" in request.GET else {}
    initial |= (
        {"dataset": [Picked(name) for name in request.GET.getlist("dataset")]} if "dataset" in request.GET else {}
    )
    if filled_from:
        initial |= initial_from(filled_from.model_dump(mode="json"))
        initial["dataset"] = picked_from(filled_from.datasets, versions)
    named = ready.called(initial["base_model"]) if "base_model" in initial else None
    if named:  # It may be an alias; the form has only names.
        initial["base_model"] = named.name
    data = request.POST if request.method == "POST" and not filled_from else None
    unfinished = Job.objects.filter(team__in=teams).exclude(state__in=ENDED_JOB_STATES).for_list()
    return TrainingForm(
        data,
        teams=teams,
        versions=versions,
        base_models=base_models,
        unfinished=unfinished[:OFFERED_PREDECESSORS],
        initial=initial,
    )


def picked_from(choices: Sequence[DatasetChoice], versions: Sequence[DatasetVersion]) -> list[Picked]:
    """Return the existing datasets among the choices, in the named version or the newest."""
    picked = []
    for choice in choices:
        named = [version for version in versions if version.dataset.name == choice.name]
        fitting = [version for version in named if choice.version in (None, version.number)]
        picked += [Picked(dataset_value(version), f"{choice.weight:g}") for version in fitting[:1]]
    return picked


def preset_form(request: MemberRequest, teams: list[Team]) -> TrainingForm:
    """Return the sent form with the values of the chosen preset for its datasets and base model."""
    sent = training_form(request, teams)
    sent.is_valid()  # Other errors do not matter, as the values are replaced.
    values = sent.cleaned_data
    if not (values.get("dataset") and values.get("base_model")):
        return sent
    try:
        choices = [DatasetChoice.model_validate(choice_of(picked)) for picked in values["dataset"]]
        (preset,) = presets_for(sent.team, values["base_model"], choices, [values.get("preset") or DEFAULT_PRESET])
    except ValidationError:  # A weight is invalid; the form shows it.
        return sent
    except Refusal as refusal:
        sent.add_refusal(refusal)
        return sent
    kept: dict[str, Any] = {
        name: sent[name].value()
        for name in ("form_token", "adapter_name", "team", *WHEN_AND_WHERE)
        if name in sent.fields
    }
    filled = training_form(request, teams, filled_from=preset.spec)
    filled.initial.update(kept, dataset=values["dataset"], preset=preset.name)
    filled.explain(preset)
    return filled

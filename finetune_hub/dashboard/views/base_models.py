"""The page of base models: what there is, what can be imported by name, and the import of a folder."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.models import BaseModel, BaseModelState
from finetune_hub.dashboard.access import MemberRequest, submitting_teams
from finetune_hub.dashboard.forms import BaseModelFolderForm
from finetune_hub.jobs.actions import import_base_model
from finetune_hub.jobs.models import Job, JobKind
from finetune_hub.spec.known_models import KNOWN_MODELS
from finetune_hub.spec.refusal import Refusal


@login_required
@require_safe
def list_base_models(request: MemberRequest) -> HttpResponse:
    teams = list(Team.objects.open_to_submissions_of(request.user))
    return render_list(request, BaseModelFolderForm(teams=teams) if teams else None)


@login_required
@require_POST
def import_model(request: MemberRequest) -> HttpResponse:
    """Import a folder, or, with the name alone, a known model."""
    teams = submitting_teams(request.user)
    data = request.POST.copy()
    known = KNOWN_MODELS.get(data.get("name", ""))
    if known and "source" not in data:
        data["source"] = known.source
    form = BaseModelFolderForm(data, teams=teams)
    if form.is_valid():
        found = form.cleaned_data
        try:
            job = import_base_model(
                form.team, request.user, name=found["name"], source=found["source"], license_name=found["license"]
            )
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            return redirect("job", job.pk)
    return render_list(request, form, status=422)


def render_list(request: MemberRequest, form: BaseModelFolderForm | None, status: int = 200) -> HttpResponse:
    imports = Prefetch("jobs", Job.objects.filter(kind=JobKind.IMPORT).order_by("-created_at"), to_attr="imports")
    base_models = list(BaseModel.objects.visible_to(request.user).prefetch_related(imports).order_by("name"))
    there = {model.name for model in base_models if model.state != BaseModelState.FAILED}
    context = {
        "base_models": base_models,
        "known_models": [model for name, model in KNOWN_MODELS.items() if name not in there],
        "form": form,
        "is_live": any(model.state == BaseModelState.IMPORTING for model in base_models),
    }
    return render(request, "base_models/list.html", context, status=status)

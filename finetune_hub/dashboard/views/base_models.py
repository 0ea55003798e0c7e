"""The base models page: base models, imports, missing chat templates, and aliases."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from finetune_hub.accounts.rights import Right, teams_where
from finetune_hub.api.bodies import FORM_OVERHEAD_BYTES
from finetune_hub.api.statuses import status_of
from finetune_hub.catalog.aliases import remove_alias, set_alias
from finetune_hub.catalog.chat_templates import set_chat_template
from finetune_hub.catalog.models import BaseModel, BaseModelAlias, BaseModelState
from finetune_hub.catalog.uploads import forget_upload
from finetune_hub.dashboard.access import MemberRequest, reads_bodies, teams_for
from finetune_hub.dashboard.forms import AliasForm, BaseModelForm, GgufForm
from finetune_hub.dashboard.views.datasets import file_of
from finetune_hub.dashboard.views.uploads import find_own_upload
from finetune_hub.data.known_templates import KNOWN_TEMPLATES
from finetune_hub.jobs.kinds.base_model_import import BaseModelImport, import_base_model, import_uploaded_model
from finetune_hub.jobs.models import Job
from finetune_hub.spec.known_models import KNOWN_MODELS
from finetune_hub.spec.refusal import Refusal


@login_required
@require_safe
def list_base_models(request: MemberRequest) -> HttpResponse:
    return render_list(request)


@login_required
@require_POST
def import_model(request: MemberRequest) -> HttpResponse:
    """Import from a given source, or a known model by its name."""
    teams = teams_for(Right.IMPORT_BASE_MODEL, request.user)
    data = request.POST.copy()
    known = KNOWN_MODELS.get(data.get("name", ""))
    if known and "source" not in data:
        data["source"] = known.source
    form = BaseModelForm(data, teams=teams)
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
    return render_list(request, form=form, status=422)


@reads_bodies(settings.BASE_MODEL_UPLOAD_MAX_BYTES + FORM_OVERHEAD_BYTES, Right.IMPORT_BASE_MODEL)
@login_required
@require_POST
def upload_model(request: MemberRequest) -> HttpResponse:
    """Import a GGUF file that was sent with the form or uploaded in parts before."""
    teams = teams_for(Right.IMPORT_BASE_MODEL, request.user)
    form = GgufForm(request.POST, request.FILES, teams=teams, auto_id="gguf_%s")
    if form.is_valid():
        found = form.cleaned_data
        parted = find_own_upload(request, found["upload"]) if found["upload"] else None
        try:
            path, file_name = file_of(found["file"], parted, request.user)
            job = import_uploaded_model(form.team, request.user, name=found["name"], file=path, file_name=file_name)
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            if parted:
                forget_upload(parted, request.user)
            return redirect("job", job.pk)
    return render_list(request, gguf_form=form, status=422)


@login_required
@require_POST
def choose_template(request: MemberRequest, base_model_id: str) -> HttpResponse:
    """Set a known chat template for a base model that has none."""
    base_model = get_object_or_404(BaseModel.objects.visible_to(request.user), pk=base_model_id)
    try:
        set_chat_template(base_model, request.user, name=request.POST.get("template", ""))
    except Refusal as refusal:
        return render_list(request, refusal=refusal, status=status_of(refusal))
    messages.success(request, f"{base_model.name} now has a chat template and can be trained on conversations.")
    return redirect("base-models")


@login_required
@require_POST
def add_alias(request: MemberRequest) -> HttpResponse:
    teams = teams_for(Right.SET_ALIAS, request.user)
    form = AliasForm(request.POST, teams=teams, base_models=BaseModel.objects.alive().filter(team__in=teams))
    if form.is_valid():
        given = form.cleaned_data
        try:
            kept = set_alias(form.team, request.user, alias=given["alias"], base_model=given["base_model"])
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            messages.success(request, f"{kept.alias} is now an alias of {kept.base_model.name}.")
            return redirect("base-models")
    return render_list(request, alias_form=form, status=422)


@login_required
@require_POST
def drop_alias(request: MemberRequest, alias_id: int) -> HttpResponse:
    alias = get_object_or_404(BaseModelAlias.objects.visible_to(request.user), pk=alias_id)
    remove_alias(alias, request.user)
    messages.success(request, f"{alias.alias} is no longer an alias.")
    return redirect("base-models")


def render_list(request: MemberRequest, *, status: int = 200, **context: Any) -> HttpResponse:
    """Render the page with the given forms, or new ones."""
    imports = Prefetch(
        "jobs", Job.objects.shown().filter(kind=BaseModelImport.name).order_by("-created_at"), to_attr="imports"
    )
    visible = BaseModel.objects.visible_to(request.user).select_related("team").prefetch_related(imports)
    base_models = list(visible.order_by("name"))
    there = {model.name for model in base_models if model.state != BaseModelState.FAILED}
    if teams := teams_where(request.user, Right.IMPORT_BASE_MODEL):
        context.setdefault("form", BaseModelForm(teams=teams))
        context.setdefault("gguf_form", GgufForm(teams=teams, auto_id="gguf_%s"))
        context.setdefault(
            "alias_form",
            AliasForm(teams=teams, base_models=[model for model in base_models if model.state == BaseModelState.READY]),
        )
    context |= {
        "base_models": base_models,
        "known_models": [model for name, model in KNOWN_MODELS.items() if name not in there],
        "known_templates": KNOWN_TEMPLATES.values(),
        "aliases": BaseModelAlias.objects.visible_to(request.user).select_related("base_model", "team"),
        "is_live": any(model.state == BaseModelState.IMPORTING for model in base_models),
    }
    return render(request, "base_models/list.html", context, status=status)

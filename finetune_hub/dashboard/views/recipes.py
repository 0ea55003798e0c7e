"""Recipe import: paste a recipe, then see a note for each key and the new-job form filled in."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from finetune_hub.accounts.rights import Right
from finetune_hub.dashboard.access import MemberRequest, teams_for
from finetune_hub.dashboard.forms import RecipeForm
from finetune_hub.dashboard.training_form import TrainingForm
from finetune_hub.dashboard.views.jobs import training_form
from finetune_hub.spec.training import TrainingSpec


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def import_recipe(request: MemberRequest) -> HttpResponse:
    """Show the paste box; after it is sent, the new-job form with notes, or the box with errors."""
    teams = teams_for(Right.IMPORT_RECIPE, request.user)
    box = RecipeForm(request.POST if request.method == "POST" else None)
    if not box.is_valid():
        return render(request, "jobs/import_recipe.html", {"form": box}, status=422 if box.is_bound else 200)
    translation = box.translation
    if translation.spec is None:
        return render(request, "jobs/import_recipe.html", {"form": box, "translation": translation}, status=422)
    form = training_form(request, teams, filled_from=translation.spec)
    context = {"form": form, "translation": translation, "gaps": gaps_between(translation.spec, form)}
    return render(request, "jobs/new.html", context)


def gaps_between(spec: TrainingSpec, form: TrainingForm) -> list[str]:
    """Return messages about rows that the recipe names and the hub does not have."""
    gaps = []
    if form.initial["base_model"] not in form.model_types:
        gaps.append(f"The hub has no base model `{spec.base_model}` yet. Import it or choose another below.")
    here = {picked.dataset.rpartition("@")[0] for picked in form.initial["dataset"]}
    for choice in spec.datasets:
        if choice.name not in here:
            name = choice.name or choice.path
            gaps.append(f"The hub has no dataset `{name}` yet. Upload it or choose another below.")
    return gaps

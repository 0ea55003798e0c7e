"""Find the adapter version that a user names, with suggestions for similar names."""

from __future__ import annotations

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.choices import did_you_mean
from finetune_hub.registry.models import Adapter, AdapterVersion
from finetune_hub.spec.refusal import Refusal


def find_adapter_version(team: Team, adapter: str, number: int | None) -> AdapterVersion:
    """Return the version of the team's adapter with this id or name; the newest if no number is given.

    Raises:
        Refusal: `unknown_adapter`, `ambiguous_adapter`.
    """
    ours = Adapter.objects.of_team(team)
    found = list(ours.filter(pk=adapter) or ours.filter(name=adapter).select_related("base_model"))
    if not found:
        names = list(ours.order_by("name").values_list("name", flat=True).distinct())
        raise Refusal(
            "unknown_adapter",
            f"There is no adapter named {adapter!r}.",
            did_you_mean(adapter, names) or "Train one first: `finetune-hub jobs submit RECIPE`.",
            field="adapter",
        )
    if len(found) > 1:
        ids = ", ".join(f"{other.pk} (on {other.base_model.name})" for other in found)
        raise Refusal(
            "ambiguous_adapter",
            f"Several adapters on different base models are named {adapter!r}.",
            f"Use the id of one of them: {ids}.",
            field="adapter",
        )
    versions = found[0].versions.alive().select_related("adapter__base_model")
    version = (versions.filter(number=number) if number else versions).first()
    if version is None:
        raise Refusal(
            "unknown_adapter",
            f"The adapter {found[0].name!r} has no version {number}.",
            "List its versions with `finetune-hub adapters list`, or omit the version for the newest.",
            field="adapter_version",
        )
    return version

"""Preview deletions, list the team's trash, and restore from it."""

from __future__ import annotations

from typing import ClassVar

from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import flag
from finetune_hub.api.lookups import get_row
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers.deletions import DeletionSerializer, OutlookSerializer
from finetune_hub.api.views.hub_view import PAGE_PARAMETERS, HubView, errors
from finetune_hub.catalog.models import Deletion
from finetune_hub.operations.deletion.actions import delete_thing, look_ahead, restore_deletion, team_of_target
from finetune_hub.operations.deletion.deletable import Target

ACCEPT_DEPENDENTS = OpenApiParameter(
    "accept_dependents",
    bool,
    description="Delete it although other things stop working, such as a base model's adapters.",
)
DELETED = {200: DeletionSerializer, **errors(401, 403, 404, 409, 422, 503)}
FORESEEN = {200: OutlookSerializer, **errors(401, 404, 410, 503)}


class DeletionOutlook(HubView):
    """The preview of a deletion. Each kind has a subclass."""

    kind: ClassVar[str]

    def outlook(self, request: Request, pk: str, number: int | None = None) -> Response:
        return Response(OutlookSerializer(look_ahead(target_of(request, self.kind, pk, number))).data)


class AdapterDeletion(DeletionOutlook):
    kind = "adapter"

    @extend_schema(operation_id="preview_adapter_deletion", responses=FORESEEN)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """Preview deleting the adapter with all its versions: what needs it, and the bytes that are freed."""
        return self.outlook(request, id)


class AdapterVersionDeletion(DeletionOutlook):
    kind = "adapter"

    @extend_schema(operation_id="preview_adapter_version_deletion", responses=FORESEEN)
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """Preview deleting the version: what needs it, and the bytes that are freed."""
        return self.outlook(request, id, number)


class DatasetDeletion(DeletionOutlook):
    kind = "dataset"

    @extend_schema(operation_id="preview_dataset_deletion", responses=FORESEEN)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """Preview deleting the dataset with all its versions: what needs it, and the bytes that are freed."""
        return self.outlook(request, id)


class DatasetVersionDeletion(DeletionOutlook):
    kind = "dataset"

    @extend_schema(operation_id="preview_dataset_version_deletion", responses=FORESEEN)
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """Preview deleting the version: what needs it, and the bytes that are freed."""
        return self.outlook(request, id, number)


class BaseModelDeletion(DeletionOutlook):
    kind = "base_model"

    @extend_schema(operation_id="preview_base_model_deletion", responses=FORESEEN)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """Preview deleting the base model: what needs it, what stops working, and the bytes that are freed."""
        return self.outlook(request, id)


class JobDeletion(DeletionOutlook):
    kind = "job"

    @extend_schema(operation_id="preview_job_deletion", responses=FORESEEN)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """Preview deleting the job: what needs it, and the bytes of its checkpoints."""
        return self.outlook(request, id)


class Trash(HubView):
    @extend_schema(
        operation_id="list_deletions",
        parameters=PAGE_PARAMETERS,
        responses={200: page_of(DeletionSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """List what was deleted in the team and can be restored."""
        return self.page(Deletion.objects.of_team(team_of(request)).restorable(), DeletionSerializer, by="deleted_at")


class RestoreDeletion(HubView):
    rights = {"post": Right.RESTORE_DELETED}

    @extend_schema(
        operation_id="restore_deletion",
        request=None,
        responses={200: DeletionSerializer, **errors(401, 403, 404, 409, 410)},
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        """Restore everything that was deleted together. Repeating it has no effect."""
        deletion = get_row(Deletion.objects.of_team(team_of(request)).select_related("team"), pk=id)
        return Response(DeletionSerializer(restore_deletion(deletion, user_of(request))).data)


def deleted(request: Request, kind: str, pk: str, number: int | None = None) -> Response:
    """Delete the target and respond with the deletion; repeating it returns the same one."""
    target = target_of(request, kind, pk, number)
    deletion = delete_thing(target, user_of(request), accept_dependents=flag(request, "accept_dependents"))
    return Response(DeletionSerializer(deletion).data)


def target_of(request: Request, kind: str, pk: str, number: int | None = None) -> Target:
    """Return the target in the token's team, even if it is deleted, or raise 404."""
    target = Target(kind, pk, number)
    if team_of_target(target) != team_of(request):
        raise Http404
    return target

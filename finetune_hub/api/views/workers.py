"""Endpoints for workers, which all teams share: list, drain, resume, remove; and for their devices."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import user_of
from finetune_hub.api.bodies import DeviceChange, read_body
from finetune_hub.api.lookups import get_row
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers.fleet import WorkerSerializer
from finetune_hub.api.views.hub_view import PAGE_PARAMETERS, HubView, errors
from finetune_hub.fleet.actions import drain_worker, release_device, remove_worker, resume_worker, share_device
from finetune_hub.fleet.models import Device, Worker


class Workers(HubView):
    @extend_schema(
        operation_id="list_workers",
        parameters=PAGE_PARAMETERS,
        responses={200: page_of(WorkerSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """List the workers with their health and devices. All teams share them."""
        return self.page(
            Worker.objects.in_fleet().with_health().prefetch_related("devices"), WorkerSerializer, by="registered_at"
        )


class DrainWorker(HubView):
    rights = {"post": Right.DRAIN_WORKER}

    @extend_schema(operation_id="drain_worker", request=None, responses={200: WorkerSerializer, **errors(401, 404)})
    def post(self, request: Request, name: str) -> Response:
        """Stop placing new jobs on the worker. Running jobs continue; it is drained when the last one ends."""
        drain_worker(get_row(Worker.objects.in_fleet(), name=name), actor=user_of(request))
        return Response(worker_detail(name))


class ResumeWorker(HubView):
    rights = {"post": Right.RESUME_WORKER}

    @extend_schema(operation_id="resume_worker", request=None, responses={200: WorkerSerializer, **errors(401, 404)})
    def post(self, request: Request, name: str) -> Response:
        """Allow new jobs on the worker again."""
        resume_worker(get_row(Worker.objects.in_fleet(), name=name), actor=user_of(request))
        return Response(worker_detail(name))


class OneWorker(HubView):
    rights = {"delete": Right.REMOVE_WORKER}

    @extend_schema(operation_id="remove_worker", responses={204: None, **errors(401, 404, 409)})
    def delete(self, request: Request, name: str) -> Response:
        """Remove a worker that is gone for good from the fleet. If it joins again, it is back in the fleet."""
        remove_worker(get_row(Worker.objects.in_fleet(), name=name), actor=user_of(request))
        return Response(status=204)


class ReleaseDevice(HubView):
    rights = {"post": Right.RELEASE_DEVICE}

    @extend_schema(operation_id="release_device", request=None, responses={200: WorkerSerializer, **errors(401, 404)})
    def post(self, request: Request, name: str, kind: str, index: int) -> Response:
        """End the quarantine of a repaired device. If the fault persists, the device is quarantined again."""
        release_device(device_of(name, kind, index), actor=user_of(request))
        return Response(worker_detail(name))


class OneDevice(HubView):
    rights = {"patch": Right.SHARE_DEVICE}

    @extend_schema(
        operation_id="change_device",
        request=DeviceChange,
        responses={200: WorkerSerializer, **errors(400, 401, 404, 413, 415, 422)},
    )
    def patch(self, request: Request, name: str, kind: str, index: int) -> Response:
        """Allow or forbid small jobs to share the device. Jobs already on it continue."""
        device = device_of(name, kind, index)
        share_device(device, read_body(request, DeviceChange).is_shared, actor=user_of(request))
        return Response(worker_detail(name))


def device_of(name: str, kind: str, index: int) -> Device:
    worker = get_row(Worker.objects.in_fleet(), name=name)
    return get_row(worker.devices.select_related("worker"), kind=kind, index=index)


def worker_detail(name: str) -> dict[str, object]:
    """Return the worker's current state."""
    return dict(WorkerSerializer(get_row(Worker.objects.with_health().prefetch_related("devices"), name=name)).data)

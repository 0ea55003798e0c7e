"""Endpoints for jobs, including evaluations: submit, list, watch, pause, resume, cancel, retry, clone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.db.models import Prefetch, QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import (
    Clone,
    JobChange,
    NewEvaluation,
    Reason,
    Retry,
    Submission,
    flag,
    idempotency_key_of,
    read_body,
    whole_number,
)
from finetune_hub.api.lookups import get_row
from finetune_hub.api.paging import page_of, part_of
from finetune_hub.api.serializers.jobs import (
    JobDetailSerializer,
    JobEventSerializer,
    JobSerializer,
    LogSerializer,
    MetricPointSerializer,
)
from finetune_hub.api.views.deletions import ACCEPT_DEPENDENTS, DELETED, deleted
from finetune_hub.api.views.hub_view import PAGE_PARAMETERS, HubView, errors
from finetune_hub.jobs.kinds.evaluation import submit_evaluation
from finetune_hub.jobs.kinds.training import submit_training
from finetune_hub.jobs.models import Attempt, Checkpoint, Job, MetricPoint, Publication
from finetune_hub.jobs.steering import (
    cancel_job,
    change_priority,
    copied_spec,
    pause_job,
    preempt_job,
    resume_job,
    retry_job,
)
from finetune_hub.registry.adapter_choices import find_adapter_version
from finetune_hub.spec.training import TrainingSpec

AFTER = OpenApiParameter("after", int, description="Only entries after this number; 0: from the beginning.")
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A repeated key returns the job that it created the first time, with status 200.",
)
ALLOW_UNFIT = OpenApiParameter(
    "allow_unfit", bool, description="Submit the job even if the planner says that it fits on no device of the hub."
)
MAX_ROWS = 1000
STEERED = {200: JobDetailSerializer, **errors(400, 401, 403, 404, 409, 413, 415, 422)}


class Jobs(HubView):
    rights = {"post": Right.SUBMIT_JOB}

    @extend_schema(
        operation_id="list_jobs",
        parameters=PAGE_PARAMETERS,
        responses={200: page_of(JobSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """List the team's jobs of every kind."""
        return self.page(Job.objects.of_team(team_of(request)).for_list(), JobSerializer)

    @extend_schema(
        operation_id="submit_job",
        request=Submission,
        parameters=[IDEMPOTENCY_KEY, ALLOW_UNFIT],
        responses={201: JobDetailSerializer, 200: JobDetailSerializer, **errors(400, 401, 403, 409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Submit a training. 201: a new job; 200: the earlier job with this idempotency key."""
        body = read_body(request, Submission, code="invalid_spec")
        return submitted_once(
            request,
            partial(
                submit_training,
                spec=body.spec(),
                priority=body.priority,
                after=body.after,
                allow_unfit=flag(request, "allow_unfit"),
            ),
        )


def submitted_once(request: Request, submit: Callable[..., Job]) -> Response:
    """Submit a job with the request's idempotency key. 201: a new job; 200: the earlier job with this key."""
    team, key = team_of(request), idempotency_key_of(request)
    known = key is not None and Job.objects.of_team(team).filter(idempotency_key=key).exists()
    job = submit(team, user_of(request), idempotency_key=key)
    return Response(job_detail(team, job.pk), status=200 if known else 201)


class Evaluations(HubView):
    rights = {"post": Right.SUBMIT_EVALUATION}

    @extend_schema(
        operation_id="submit_evaluation",
        request=NewEvaluation,
        responses={201: JobDetailSerializer, **errors(400, 401, 403, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Generate answers with and without an adapter and count exact matches. The counts are in `result`."""
        team, body = team_of(request), read_body(request, NewEvaluation)
        job = submit_evaluation(
            team,
            user_of(request),
            adapter_version=find_adapter_version(team, body.adapter, body.adapter_version),
            dataset=body.dataset,
            max_rows=body.max_rows,
            max_new_tokens=body.max_new_tokens,
        )
        return Response(job_detail(team, job.pk), status=201)


class OneJob(HubView):
    rights = {"patch": Right.CHANGE_PRIORITY, "delete": Right.DELETE_JOB}

    @extend_schema(operation_id="get_job", responses={200: JobDetailSerializer, **errors(401, 404)})
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """Show a job with its attempts, its published adapter version and its result."""
        return Response(job_detail(team_of(request), id))

    @extend_schema(operation_id="change_job", request=JobChange, responses=STEERED)
    def patch(self, request: Request, id: str) -> Response:  # noqa: A002
        """Change the priority of a job that has not ended."""
        job = job_of(request, id)
        change_priority(job.pk, user_of(request), read_body(request, JobChange).priority)
        return Response(job_detail(job.team, id))

    @extend_schema(operation_id="delete_job", parameters=[ACCEPT_DEPENDENTS], responses=DELETED)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        """Delete a job that has ended. It can be restored for a time; then its checkpoints and logs are deleted.

        What it published is kept, and its device hours still count.
        """
        return deleted(request, "job", id)


class PauseJob(HubView):
    rights = {"post": Right.PAUSE_JOB}

    @extend_schema(operation_id="pause_job", request=Reason, responses=STEERED)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        """Pause the job. It releases its devices and continues from a checkpoint when it is resumed."""
        job = job_of(request, id)
        pause_job(job.pk, user_of(request), reason=read_body(request, Reason).reason)
        return Response(job_detail(job.team, id))


class ResumeJob(HubView):
    rights = {"post": Right.RESUME_JOB}

    @extend_schema(operation_id="resume_job", request=Reason, responses=STEERED)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        """Queue a paused job again. Repeating the request has no effect."""
        job = job_of(request, id)
        resume_job(job.pk, user_of(request), reason=read_body(request, Reason).reason)
        return Response(job_detail(job.team, id))


class PreemptJob(HubView):
    rights = {"post": Right.PREEMPT_JOB}

    @extend_schema(operation_id="preempt_job", request=Reason, responses=STEERED)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        """Take back the job's devices. It writes a checkpoint and keeps its place in the queue."""
        job = job_of(request, id)
        preempt_job(job.pk, user_of(request), reason=read_body(request, Reason).reason)
        return Response(job_detail(job.team, id))


class CancelJob(HubView):
    rights = {"post": Right.CANCEL_JOB}

    @extend_schema(operation_id="cancel_job", request=Reason, responses=STEERED)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        """Cancel the job. A running training writes a checkpoint first. Repeating the request has no effect."""
        job = job_of(request, id)
        cancel_job(job.pk, user_of(request), reason=read_body(request, Reason).reason)
        return Response(job_detail(job.team, id))


class RetryJob(HubView):
    rights = {"post": Right.RETRY_JOB}

    @extend_schema(operation_id="retry_job", request=Retry, responses=STEERED | errors(410))
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        """Run a failed or cancelled job again, from its newest or a chosen checkpoint."""
        job, body = job_of(request, id), read_body(request, Retry)
        retry_job(job.pk, user_of(request), from_step=body.from_step, reason=body.reason)
        return Response(job_detail(job.team, id))


class CloneJob(HubView):
    rights = {"post": Right.SUBMIT_JOB}

    @extend_schema(
        operation_id="clone_job",
        request=Clone,
        parameters=[ALLOW_UNFIT],
        responses={201: JobDetailSerializer, **errors(400, 401, 403, 404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        """Submit a copy of this training, with the same dataset versions and the given changes."""
        job, body = job_of(request, id), read_body(request, Clone)
        spec = TrainingSpec.model_validate(copied_spec(job, body.changes))
        copy = submit_training(
            job.team,
            user_of(request),
            spec,
            priority=body.priority,
            after=body.after,
            copy_of=job,
            allow_unfit=flag(request, "allow_unfit"),
        )
        return Response(job_detail(job.team, copy.pk), status=201)


class JobEvents(HubView):
    @extend_schema(
        operation_id="list_job_events",
        parameters=[AFTER],
        responses={200: part_of(JobEventSerializer), **errors(401, 404, 422)},
    )
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """List the job's events, numbered without gaps, oldest first."""
        job = get_row(Job.objects.of_team(team_of(request)), pk=id)
        events = job.events.filter(number__gt=whole_number(request, "after", default=0)).order_by("number")
        return first_part(events.select_related("actor"), JobEventSerializer, "number")


class JobMetrics(HubView):
    @extend_schema(
        operation_id="list_job_metrics",
        parameters=[AFTER],
        responses={200: part_of(MetricPointSerializer), **errors(401, 404, 422)},
    )
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """List the points of the loss curve, one per step. If a step was repeated, the newest point counts."""
        job = get_row(Job.objects.of_team(team_of(request)), pk=id)
        after = whole_number(request, "after", default=0)
        return first_part(MetricPoint.objects.curve_of(job).filter(step__gt=after), MetricPointSerializer, "step")


class JobLog(HubView):
    @extend_schema(operation_id="get_job_log", responses={200: LogSerializer, **errors(401, 404)})
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """Show the end of the engine's output in the newest attempt."""
        job = get_row(Job.objects.of_team(team_of(request)), pk=id)
        attempt = job.attempts.first()
        return Response({"attempt": attempt and attempt.number, "text": attempt.log_tail if attempt else ""})


def job_of(request: Request, job_id: str) -> Job:
    """Return the job of the token's team, or raise 404."""
    return get_row(Job.objects.of_team(team_of(request)).select_related("team"), pk=job_id)


def job_detail(team: Team, job_id: str) -> dict[str, Any]:
    """Serialize the job with `JobDetailSerializer`, in a fixed number of queries; 404 outside the team."""
    jobs = Job.objects.of_team(team).select_related("base_model", "created_by", "adapter_version__adapter")
    jobs = jobs.prefetch_related(
        "job_datasets__dataset_version__dataset",
        Prefetch("attempts", Attempt.objects.select_related("worker").prefetch_related("devices").defer("log_tail")),
        Prefetch("checkpoints", Checkpoint.objects.only("job_id", "step")),
        Prefetch(
            "publications",
            Publication.objects.filter(adapter_version__deletion=None).select_related("adapter_version__adapter"),
        ),
    )
    return dict(JobDetailSerializer(get_row(jobs, pk=job_id)).data)


def first_part(rows: QuerySet[Any], serializer: type[BaseSerializer[Any]], number: str) -> Response:
    """Return the first rows and the number after which the next part begins."""
    part = list(rows[: MAX_ROWS + 1])
    following = getattr(part[MAX_ROWS - 1], number) if len(part) > MAX_ROWS else None
    return Response({"data": serializer(part[:MAX_ROWS], many=True).data, "next": following})

"""The API's URLs, under `/api/`."""

from __future__ import annotations

from django.urls import URLPattern, path, re_path, register_converter

from finetune_hub.api.views import (
    adapters,
    aliases,
    base_models,
    dataset_versions,
    datasets,
    deletions,
    health,
    huggingface_token,
    invitations,
    job_kinds,
    jobs,
    members,
    notifications,
    openapi,
    plans,
    presets,
    quotas,
    recipes,
    tokens,
    unknown_address,
    uploads,
    usage,
    workers,
)


class PublicId:
    """URL converter for an id such as `ftjob-7k2m…`; any other form gives 404."""

    regex = r"[a-z]+-[a-z0-9]{1,34}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class Username(PublicId):
    """URL converter for a username; any other form gives 404."""

    regex = r"[\w.@+-]{1,150}"


register_converter(PublicId, "id")
register_converter(Username, "username")

app_name = "api"
urlpatterns: list[URLPattern] = [
    path("datasets", datasets.Datasets.as_view(), name="datasets"),
    path("datasets/import", datasets.DatasetImports.as_view(), name="dataset-import"),
    path("datasets/<id:id>", datasets.OneDataset.as_view(), name="dataset"),
    path(
        "datasets/<id:id>/versions/<int:number>", dataset_versions.OneDatasetVersion.as_view(), name="dataset-version"
    ),
    path("datasets/<id:id>/deletion", deletions.DatasetDeletion.as_view(), name="dataset-deletion"),
    path(
        "datasets/<id:id>/versions/<int:number>/deletion",
        deletions.DatasetVersionDeletion.as_view(),
        name="dataset-version-deletion",
    ),
    path("datasets/<id:id>/versions/<int:number>/rows", dataset_versions.DatasetRows.as_view(), name="dataset-rows"),
    path("datasets/<id:id>/versions/<int:number>/split", dataset_versions.DatasetSplit.as_view(), name="dataset-split"),
    path(
        "datasets/<id:id>/versions/<int:number>/comparison",
        dataset_versions.DatasetComparison.as_view(),
        name="dataset-comparison",
    ),
    path(
        "datasets/<id:id>/versions/<int:number>/preview",
        dataset_versions.DatasetPreview.as_view(),
        name="dataset-preview",
    ),
    path(
        "datasets/<id:id>/versions/<int:number>/tokens", dataset_versions.DatasetTokens.as_view(), name="dataset-tokens"
    ),
    path(
        "datasets/<id:id>/versions/<int:number>/files/<str:name>",
        dataset_versions.DatasetDownload.as_view(),
        name="dataset-file",
    ),
    path("uploads", uploads.Uploads.as_view(), name="uploads"),
    path("uploads/<id:id>", uploads.OneUpload.as_view(), name="upload"),
    path("base-models", base_models.BaseModels.as_view(), name="base-models"),
    path("base-models/<id:id>", base_models.OneBaseModel.as_view(), name="base-model"),
    path("base-models/<id:id>/deletion", deletions.BaseModelDeletion.as_view(), name="base-model-deletion"),
    path("base-models/<id:id>/chat-template", base_models.ChatTemplates.as_view(), name="chat-template"),
    path("base-model-aliases", aliases.Aliases.as_view(), name="aliases"),
    path("base-model-aliases/<path:alias>", aliases.OneAlias.as_view(), name="alias"),
    path("huggingface-token", huggingface_token.OneHuggingFaceToken.as_view(), name="huggingface-token"),
    path(
        "hub-token", huggingface_token.OneHubToken.as_view(), name="hub-token"
    ),  # The former name, kept for one release.
    path("jobs", jobs.Jobs.as_view(), name="jobs"),
    path("jobs/<id:id>", jobs.OneJob.as_view(), name="job"),
    path("jobs/<id:id>/deletion", deletions.JobDeletion.as_view(), name="job-deletion"),
    path("jobs/<id:id>/pause", jobs.PauseJob.as_view(), name="job-pause"),
    path("jobs/<id:id>/resume", jobs.ResumeJob.as_view(), name="job-resume"),
    path("jobs/<id:id>/preempt", jobs.PreemptJob.as_view(), name="job-preempt"),
    path("jobs/<id:id>/cancel", jobs.CancelJob.as_view(), name="job-cancel"),
    path("jobs/<id:id>/retry", jobs.RetryJob.as_view(), name="job-retry"),
    path("jobs/<id:id>/clone", jobs.CloneJob.as_view(), name="job-clone"),
    path("jobs/<id:id>/events", jobs.JobEvents.as_view(), name="job-events"),
    path("jobs/<id:id>/metrics", jobs.JobMetrics.as_view(), name="job-metrics"),
    path("jobs/<id:id>/log", jobs.JobLog.as_view(), name="job-log"),
    path("job-kinds", job_kinds.JobKinds.as_view(), name="job-kinds"),
    path("job-kinds/<slug:name>", job_kinds.OneJobKind.as_view(), name="job-kind"),
    path("plans", plans.Plans.as_view(), name="plans"),
    path("presets", presets.Presets.as_view(), name="presets"),
    path("recipes/import", recipes.ImportRecipe.as_view(), name="recipe-import"),
    path("evaluations", jobs.Evaluations.as_view(), name="evaluations"),
    path("adapters", adapters.Adapters.as_view(), name="adapters"),
    path("adapters/<id:id>", adapters.OneAdapter.as_view(), name="adapter"),
    path("adapters/<id:id>/versions/<int:number>", adapters.OneAdapterVersion.as_view(), name="adapter-version"),
    path(
        "adapters/<id:id>/versions/<int:number>/files/<path:path>", adapters.AdapterFiles.as_view(), name="adapter-file"
    ),
    path("adapters/<id:id>/deletion", deletions.AdapterDeletion.as_view(), name="adapter-deletion"),
    path(
        "adapters/<id:id>/versions/<int:number>/deletion",
        deletions.AdapterVersionDeletion.as_view(),
        name="adapter-version-deletion",
    ),
    path("adapters/<id:id>/versions/<int:number>/archive", adapters.AdapterArchive.as_view(), name="adapter-archive"),
    path("trash", deletions.Trash.as_view(), name="trash"),
    path("trash/<id:id>/restore", deletions.RestoreDeletion.as_view(), name="restore"),
    path("workers", workers.Workers.as_view(), name="workers"),
    path("worker-invitations", invitations.Invitations.as_view(), name="worker-invitations"),
    path("worker-invitations/<slug:name>", invitations.OneInvitation.as_view(), name="worker-invitation"),
    path("workers/<slug:name>/drain", workers.DrainWorker.as_view(), name="worker-drain"),
    path("workers/<slug:name>", workers.OneWorker.as_view(), name="worker"),
    path("workers/<slug:name>/devices/<str:kind>/<int:index>", workers.OneDevice.as_view(), name="device"),
    path(
        "workers/<slug:name>/devices/<str:kind>/<int:index>/release",
        workers.ReleaseDevice.as_view(),
        name="device-release",
    ),
    path("workers/<slug:name>/resume", workers.ResumeWorker.as_view(), name="worker-resume"),
    path("quotas", quotas.Quotas.as_view(), name="quotas"),
    path("quotas/<slug:slug>", quotas.OneQuota.as_view(), name="quota"),
    path("usage", usage.Usage.as_view(), name="usage"),
    path("members", members.Members.as_view(), name="members"),
    path("members/<username:username>", members.OneMember.as_view(), name="member"),
    path("tokens", tokens.Tokens.as_view(), name="tokens"),
    path("tokens/<id:id>", tokens.OneToken.as_view(), name="token"),
    path("notifications/email", notifications.Email.as_view(), name="email-notifications"),
    path("notifications/chat", notifications.Chat.as_view(), name="chat-webhook"),
    path("me", tokens.Me.as_view(), name="me"),
    path("health", health.Health.as_view(), name="health"),
    path("health/report", health.HealthReport.as_view(), name="health-report"),
    path("schema", openapi.OpenApiSchema.as_view(), name="schema"),
    re_path(r"^.*$", unknown_address.UnknownAddress.as_view()),
]

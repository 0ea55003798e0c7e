"""The dashboard's addresses: one noun, one folder."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from finetune_hub.dashboard.views import (
    account,
    adapters,
    base_models,
    dataset_versions,
    datasets,
    home,
    jobs,
    recipes,
    sign_in,
    team,
    uploads,
    workers,
)

urlpatterns = [
    path("", home.show_home, name="home"),
    path("login/", sign_in.sign_in, name="login"),
    path("login/link/<int:user_id>/<str:token>/", sign_in.sign_in_by_link, name="login-link"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("jobs/", jobs.list_jobs, name="jobs"),
    path("jobs/new/", jobs.new_job, name="job-new"),
    path("jobs/new/plan", jobs.plan_job, name="job-plan"),
    path("jobs/new/recipe", recipes.import_recipe, name="recipe-import"),
    path("jobs/<str:job_id>/recipe.yaml", jobs.download_recipe, name="job-recipe"),
    path("jobs/<str:job_id>/", jobs.show_job, name="job"),
    path("jobs/<str:job_id>/stream", jobs.watch_job, name="job-stream"),
    path("jobs/<str:job_id>/metrics.json", jobs.show_metrics, name="job-metrics"),
    path("jobs/<str:job_id>/cancel", jobs.cancel, name="job-cancel"),
    path("datasets/", datasets.list_datasets, name="datasets"),
    path("datasets/upload/", datasets.upload_dataset, name="dataset-upload"),
    path("datasets/uploads/", uploads.begin, name="upload-begin"),
    path("datasets/uploads/<str:upload_id>/parts", uploads.send_part, name="upload-part"),
    path("datasets/<str:dataset_id>/", datasets.show_dataset, name="dataset"),
    path("datasets/<str:dataset_id>/<int:number>/", datasets.show_dataset, name="dataset-version"),
    path("datasets/<str:dataset_id>/<int:number>/preview", dataset_versions.preview, name="dataset-preview"),
    path("datasets/<str:dataset_id>/<int:number>/lengths", dataset_versions.show_lengths, name="dataset-lengths"),
    path("datasets/<str:dataset_id>/<int:number>/rows", dataset_versions.search_rows, name="dataset-rows"),
    path("datasets/<str:dataset_id>/<int:number>/comparison", dataset_versions.compare, name="dataset-comparison"),
    path("datasets/<str:dataset_id>/<int:number>/split", dataset_versions.split, name="dataset-split"),
    path("datasets/<str:dataset_id>/<int:number>/delete", dataset_versions.delete, name="dataset-delete"),
    path(
        "datasets/<str:dataset_id>/<int:number>/files/<str:name>", dataset_versions.download_file, name="dataset-file"
    ),
    path("base-models/", base_models.list_base_models, name="base-models"),
    path("base-models/import", base_models.import_model, name="base-model-import"),
    path("adapters/", adapters.list_adapters, name="adapters"),
    path("adapters/<str:adapter_id>/", adapters.show_adapter, name="adapter"),
    path("adapters/<str:adapter_id>/<int:number>/", adapters.show_adapter, name="adapter-version"),
    path("adapters/<str:adapter_id>/<int:number>/files/<path:path>", adapters.download_file, name="adapter-file"),
    path("adapters/<str:adapter_id>/<int:number>/zip", adapters.download_zip, name="adapter-zip"),
    path("workers/", workers.list_workers, name="workers"),
    path("workers/<slug:name>/drain", workers.drain, name="worker-drain"),
    path("workers/<slug:name>/resume", workers.resume, name="worker-resume"),
    path("team/", team.show_team, name="team"),
    path("team/<slug:slug>/", team.show_team, name="team-of"),
    path("team/<slug:slug>/members/add", team.add, name="member-add"),
    path("team/<slug:slug>/members/<int:membership_id>/role", team.change, name="member-role"),
    path("team/<slug:slug>/members/<int:membership_id>/remove", team.remove, name="member-remove"),
    path("account/", account.show_account, name="account"),
    path("account/password", account.change_password, name="password-change"),
    path("account/tokens", account.create, name="token-create"),
    path("account/tokens/<str:token_id>/revoke", account.revoke, name="token-revoke"),
]

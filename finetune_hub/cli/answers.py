"""What the API answers. Made by `make answers` from docs/openapi.yaml: change the API's serializers instead."""

from __future__ import annotations

from typing import Any

from finetune_hub.spec.answer import Answer


class Adapter(Answer):
    id: str
    name: str
    base_model: str
    created_at: str
    newest_number: int
    newest_created_at: str
    newest_method: str
    newest_size_bytes: int


class AdapterVersion(Answer):
    number: int
    method: str
    step: int
    size_bytes: int
    created_at: str


class AddedVersion(Answer):
    id: str
    name: str
    number: int
    sha256: str
    size_bytes: int
    row_count: int
    kind: str
    format: str
    rejected_count: int
    created_at: str
    deleted_at: str | None
    recognised: str


class Alias(Answer):
    alias: str
    base_model: str
    created_at: str


class Bar(Answer):
    from_tokens: int
    to_tokens: int
    rows: int


class BaseModel(Answer):
    id: str
    name: str
    source: str
    commit: str
    access: str
    license: str
    state: str
    revision: str
    created_at: str


class Compatibility(Answer):
    program: str
    answer: str
    export_format: str | None
    reason: str


class Dataset(Answer):
    id: str
    name: str
    created_at: str
    newest_number: int | None
    newest_row_count: int | None
    newest_size_bytes: int | None
    newest_created_at: str | None


class DatasetVersionDetail(Answer):
    id: str
    name: str
    number: int
    sha256: str
    size_bytes: int
    row_count: int
    kind: str
    format: str
    rejected_count: int
    created_at: str
    deleted_at: str | None
    recognised: str
    file_name: str
    original_sha256: str
    original_size_bytes: int | None
    split_from: str | None
    origin: str
    source: str
    license: str
    deletion_id: str | None
    first_rows: list[dict[str, Any]]


class Deletion(Answer):
    id: str
    kind: str
    subject: str
    size_bytes: int
    deleted_by: str
    deleted_at: str
    restorable_until: str
    restored_at: str | None
    purged_at: str | None


class Device(Answer):
    index: int
    kind: str
    name: str
    memory_bytes: int
    present: bool
    is_shared: bool
    driver: str
    temperature_celsius: int | None
    other_processes: int
    quarantined_at: str | None
    quarantine_reason: str


class Error(Answer):
    code: str
    message: str
    remedy: str
    field: str | None
    details: list[dict[str, Any]]


class ErrorBody(Answer):
    error: Error


class Failure(Answer):
    failure_class: str
    message: str
    remedy: str


class File(Answer):
    path: str
    size_bytes: int
    sha256: str


class FoundRow(Answer):
    number: int
    document: dict[str, Any]


class FoundRows(Answer):
    rows: list[FoundRow]
    next: int | None


class HuggingFaceToken(Answer):
    is_set: bool
    set_by: str | None
    set_at: str | None


class ImportedBaseModel(Answer):
    id: str
    name: str
    source: str
    commit: str
    access: str
    license: str
    state: str
    revision: str
    created_at: str
    job_id: str


class Job(Answer):
    id: str
    kind: str
    state: str
    desired_state: str
    base_model: str | None
    created_by: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    waiting_reason: str
    waiting_code: str
    expected_start: str | None
    priority: int
    after: str | None
    parent: str | None
    step: int
    total_steps: int | None
    progress_unit: str
    eta_seconds: float | None
    failure: Failure | None


class JobDataset(Answer):
    id: str
    name: str
    version: int
    weight: float


class JobEvent(Answer):
    number: int
    created_at: str
    level: str
    message: str
    actor: str | None


class KnownTemplate(Answer):
    name: str
    summary: str
    fits: bool


class KnownTemplates(Answer):
    data: list[KnownTemplate]


class Log(Answer):
    attempt: int | None
    text: str


class Me(Answer):
    user: str
    team: str
    role: str
    name: str
    scopes: list[str]
    expires_at: str | None


class MetricPoint(Answer):
    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    supervised_tokens: int
    seconds: float
    peak_memory_bytes: int
    reward_margin: float | None
    reward_accuracy: float | None


class Origin(Answer):
    kind: str
    id: str
    name: str
    version: int | None


class PreviewToken(Answer):
    id: int
    text: str
    supervised: bool
    truncated: bool


class Quota(Answer):
    team: str
    name: str
    max_devices: int | None
    max_hours: float | None
    weight: float
    devices: int
    month_hours: float
    recent_hours: float


class Quotas(Answer):
    data: list[Quota]


class Related(Answer):
    kind: str
    id: str
    name: str
    how: str


class RowPreview(Answer):
    number: int
    row_count: int
    document: dict[str, Any]
    token_count: int
    supervised_count: int
    truncated_count: int
    tokens: list[PreviewToken]


class SplitParts(Answer):
    train: DatasetVersionDetail
    held_out: DatasetVersionDetail


class TokenStatistics(Answer):
    max_seq_len: int
    row_count: int
    measured_rows: int
    median_tokens: int
    longest_tokens: int
    histogram: list[Bar]
    truncated_rows: int
    lost_token_share: float
    lost_supervised_share: float
    supervised_per_row: float
    silent_count: int
    silent_rows: list[int]
    refused_count: int
    refused_rows: list[int]
    refusal: Any


class Upload(Answer):
    id: str
    file_name: str
    size_bytes: int
    received_bytes: int


class UsageLine(Answer):
    team: str | None
    user: str | None
    job: str | None
    kind: str | None
    worker: str | None
    device: str | None
    gpu_seconds: float
    cpu_seconds: float
    jobs: int
    mean_wait_seconds: float | None


class VersionReference(Answer):
    adapter_id: str
    name: str
    version: int


class Worker(Answer):
    name: str
    hostname: str
    version: str
    labels: list[str]
    health: str
    health_reason: str
    drain_requested: bool
    heartbeat_at: str
    canary_at: str
    free_bytes: int | None
    devices: list[Device]


class AdapterDetail(Answer):
    id: str
    name: str
    base_model: str
    created_at: str
    versions: list[AdapterVersion]


class AdapterVersionDetail(Answer):
    adapter_id: str
    name: str
    number: int
    method: str
    step: int
    size_bytes: int
    created_at: str
    base_model: str
    base_model_revision: str
    chat_template_sha256: str
    job_id: str | None
    lineage: list[Origin]
    compatibility: list[Compatibility]
    training_spec: dict[str, Any]
    summary: dict[str, Any]
    verification: dict[str, Any]
    artifact_url: str
    files: list[File]


class Attempt(Answer):
    number: int
    state: str
    worker: str
    devices: list[str]
    assigned_at: str
    started_at: str | None
    finished_at: str | None
    resumed_from_step: int
    stop_reason: str
    failure: Failure | None
    failure_class: str
    failure_message: str


class BaseModelDetail(Answer):
    id: str
    name: str
    source: str
    commit: str
    access: str
    license: str
    state: str
    revision: str
    created_at: str
    chat_template: str
    facts: dict[str, Any]
    files: list[File]
    artifact_url: str | None


class JobDetail(Answer):
    id: str
    kind: str
    state: str
    desired_state: str
    base_model: str | None
    created_by: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    waiting_reason: str
    waiting_code: str
    expected_start: str | None
    priority: int
    after: str | None
    parent: str | None
    step: int
    total_steps: int | None
    progress_unit: str
    eta_seconds: float | None
    failure: Failure | None
    datasets: list[JobDataset]
    attempts: list[Attempt]
    evaluates: VersionReference | None
    published: VersionReference | None
    compatibility: list[Compatibility] | None
    checkpoints: list[int]
    address: str
    spec: dict[str, Any]
    adjustments: dict[str, Any]
    memory_bytes_needed: int | None
    result: dict[str, Any] | None


class Outlook(Answer):
    kind: str
    subject: str
    sentence: str
    size_bytes: int
    file_count: int
    grace_seconds: int
    held_by: list[Related]
    stops_working: list[Related]
    stays: list[Related]


class Usage(Answer):
    month: str
    by: str
    gpu_seconds: float
    cpu_seconds: float
    lines: list[UsageLine]

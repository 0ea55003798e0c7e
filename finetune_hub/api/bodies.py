"""What clients send: JSON bodies as pydantic models, numbers in the query, and an uploaded file on the disk."""

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
from finetune_hub.spec.part import Part
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.sizes import size_in_words
from finetune_hub.spec.training import DatasetChoice, TrainingSpec

Body = TypeVar("Body", bound=BaseModel)

MAX_IDEMPOTENCY_KEY_LENGTH = 255
MAX_JSON_BYTES = 1 << 20
MAX_JSON_DEPTH = 64
FORM_OVERHEAD_BYTES = 64 * 1024  # The multipart borders and the other fields of an upload.


class NewBaseModelImport(Part):
    """A base model to import."""

    name: str = Field(max_length=255, description="The name it gets; one of the known models needs no source.")
    source: str | None = Field(
        None, max_length=500, description="`hf:owner/name@revision`, `pypi:package==1.2` or `folder:NAME`."
    )
    upload: str | None = Field(
        None, max_length=40, description="In place of `source`: an upload of a GGUF file whose parts were all sent."
    )
    license: str = Field("", max_length=100, description="The model's licence, where its source names none.")


class NewDatasetImport(Part):
    """A dataset to fetch."""

    name: str = Field(max_length=255, description="The dataset; made when it is new.")
    source: str = Field(
        min_length=1,
        max_length=2000,
        description="`hf:owner/name@revision`, with `:split` or `:path/of/a/file` behind it, or `https://…`.",
    )
    mapping: dict[str, str] | None = Field(None, description="Where the columns belong to no known format.")
    on_error: OnError = Field("refuse", description="`quarantine`: go on with the good rows, set the others aside.")


class NewAlias(Part):
    """Another name for a base model."""

    alias: str = Field(min_length=1, max_length=255, description="What a pipeline sends: `gpt-4o-mini-2024-07-18`.")
    base_model: str = Field(min_length=1, max_length=64, description="The base model's name.")


class NewChatTemplate(Part):
    """A chat template for a base model that came without one: `template` or `source`."""

    template: str | None = Field(None, max_length=64, description="One that `GET` on this address lists.")
    source: str | None = Field(None, min_length=1, max_length=100_000, description="Jinja of your own.")


class PresetQuestion(Part):
    """Datasets and a base model to fill a training in for."""

    base_model: str = Field(min_length=1, max_length=255)
    datasets: list[DatasetChoice] = Field(min_length=1, max_length=16)
    presets: list[str] | None = Field(None, max_length=16, description="Their names; all when left out.")


class NewMember(Part):
    """Somebody to add to the team."""

    username: str = Field(max_length=150, description="A user of this hub, or a new one.")
    role: Role = Field(
        Role.MEMBER, description="A viewer looks, a member submits, an admin manages members and workers."
    )
    email: str = Field("", max_length=254, description="Kept when the user is new.")


class RoleChange(Part):
    """A member's other role."""

    role: Role


class Quota(Part):
    """What a team may have of the fleet; what is left out is not limited."""

    max_devices: int | None = Field(None, ge=0, le=100_000, description="Devices at a time.")
    max_hours: float | None = Field(
        None, ge=0, le=1e9, allow_inf_nan=False, description="Device hours a calendar month (UTC)."
    )
    weight: float = Field(1.0, gt=0, le=1000, description="Its part of a full fleet, relative to the other teams.")


class NewInvitation(Part):
    """A worker to invite."""

    name: str = Field(max_length=64, description="Up to 64 of a-z, 0-9 and -. Its machine starts it by this name.")


class DeviceChange(Part):
    """What an admin permits on a device."""

    is_shared: bool = Field(description="Small jobs may be on it together, as far as its memory goes.")


class NewToken(Part):
    """A token to make."""

    name: str = Field(min_length=1, max_length=100, description="What it is for.")
    scopes: list[Scope] = Field(
        [Scope.READ, Scope.WRITE],
        min_length=1,
        max_length=len(Scope),
        description="None that the asking token does not have itself.",
    )
    days: int | None = Field(
        90, ge=1, le=3650, description="How long it is valid; null: always. Never longer than the asking token."
    )


class NewHuggingFaceToken(Part):
    """The team's Hugging Face token."""

    token: SecretStr = Field(description="Kept sealed, used by imports of gated and private models, never shown again.")


class EmailNotifications(Part):
    """What to hear by e-mail."""

    wants: Wants = Field(description="Of your own jobs: nothing, problems, or everything.")
    email: str = Field(max_length=254, description="Where to.")


class NewChatWebhook(Part):
    """The chat room that gets messages about the team's jobs."""

    url: str = Field(min_length=1, max_length=2000, description="Over HTTPS. It is never shown again.")
    wants: Wants = Field(Wants.EVERYTHING, description="problems, or everything.")


class PlaceInLine(Part):
    """When a job starts, beside others."""

    priority: int = Field(
        0, description="Higher ones are placed first, from -10 to 10. Above 0 is for the team's admins."
    )
    after: str | None = Field(
        None, max_length=40, description="A job's id: start once it has succeeded; when it fails, this one fails too."
    )


class Submission(TrainingSpec, PlaceInLine):
    """A training spec, and when it starts."""

    def spec(self) -> TrainingSpec:
        return TrainingSpec.model_validate(self.model_dump(exclude=set(PlaceInLine.model_fields)))


class Clone(PlaceInLine):
    """A job like another."""

    changes: dict[str, Any] = Field(
        {}, description='What differs in its spec, as a merge patch (RFC 7396): `{"training": {"epochs": 3}}`.'
    )


class Reason(Part):
    """Why; a sentence for the job's history."""

    reason: str = Field("", max_length=500)


class Retry(Reason):
    from_step: int | None = Field(
        None,
        ge=0,
        description="Step of the checkpoint to start from, giving up later ones; 0: the beginning; null: the newest.",
    )


class JobChange(Part):
    """What may be changed about a job that waits or runs."""

    priority: int = Field(description="See `submit_job`.")


class NewEvaluation(Part):
    """A held-out dataset to answer with and without an adapter."""

    kind: Literal["evaluate"] = "evaluate"
    adapter: str = Field(min_length=1, max_length=64, description="The adapter's id or name.")
    adapter_version: int | None = Field(None, ge=1, le=2**31 - 1, description="The newest when left out.")
    dataset: DatasetChoice = Field(description="A registered dataset; its bare name will do.")
    max_rows: int | None = Field(None, ge=1, description="Only the first so many rows.")
    max_new_tokens: int = Field(256, ge=1, le=8192, description="Tokens of the longest answer.")

    @field_validator("dataset", mode="before")
    @classmethod
    def _name_will_do(cls, dataset: Any) -> Any:
        return {"name": dataset} if isinstance(dataset, str) else dataset


class NewUpload(Part):
    """A file that will be sent in parts."""

    file_name: str = Field(min_length=1, max_length=255)
    size_bytes: int = Field(ge=1, le=2**62)
    fingerprint: str = Field(
        min_length=1, max_length=255, description="`sha256:…` of the file, which is checked then, or a text of yours."
    )


class Split(Part):
    """Rows to hold out of a dataset version."""

    fraction: float = Field(0.1, gt=0, lt=1, description="Share of the rows that is held out.")
    seed: int = Field(7, ge=0, le=2**31 - 1, description="The same seed and share: the same rows.")


def read_body(request: Request, model: type[Body], *, code: str = "invalid_request") -> Body:
    """The request's JSON body as the model.

    Raises:
        Refusal: with the code given, and an entry in `details` for each defect; or `body_too_large`.
    """
    if content_length_bytes(request) > MAX_JSON_BYTES:
        raise Refusal(
            "body_too_large",
            f"The body is larger than {size_in_words(MAX_JSON_BYTES)}.",
            "Send data as a dataset, and name it in the body.",
            kind="too_large",
        )
    check_text(request.data)
    try:
        return model.model_validate(request.data)
    except ValidationError as error:
        raise refuse_document(error, model, code) from error


def content_length_bytes(request: Request) -> int:
    """The body's length. Without one the body would be read as empty, so a chunked body is refused.

    Raises:
        Refusal: `invalid_body`.
    """
    if "CONTENT_LENGTH" not in request.META and "Transfer-Encoding" in request.headers:
        raise Refusal(
            "invalid_body", "The body has no Content-Length.", "Send it whole, not in chunks.", kind="malformed"
        )
    return int(request.META.get("CONTENT_LENGTH") or 0)


def check_text(value: Any, *, depth: int = 0) -> None:
    """Refuse what JSON can spell and nobody can keep: NUL, half of a surrogate pair, and nesting without end.

    Raises:
        Refusal: `invalid_body`.
    """
    if depth > MAX_JSON_DEPTH:
        raise Refusal(
            "invalid_body",
            f"The body is nested more than {MAX_JSON_DEPTH} levels deep.",
            "Send it flatter; nothing here asks for so much.",
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
            "A text holds a NUL or half of a surrogate pair.",
            "Remove that character.",
            kind="malformed",
        )


def is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def refuse_nul(request: HttpRequest | Request) -> None:
    """Refuse an address with a NUL, which Postgres cannot store, so that asking it for one fails.

    Raises:
        Http404: it is in the path, which is then no row's.
        Refusal: `invalid_request`, where it is in the query.
    """
    if "\0" in request.path:
        raise Http404
    if "%00" in request.META["QUERY_STRING"]:
        raise Refusal("invalid_request", "The query holds a NUL, `%00`.", "Remove that character.")


def idempotency_key_of(request: Request) -> str | None:
    """The `Idempotency-Key` header.

    Raises:
        Refusal: `invalid_idempotency_key`.
    """
    key = request.headers.get("Idempotency-Key")
    if key is not None and not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY_LENGTH:
        raise Refusal(
            "invalid_idempotency_key",
            f"The idempotency key has {len(key)} characters.",
            f"Use 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} of them, such as a UUID.",
            field="Idempotency-Key",
        )
    return key


def whole_number(request: Request, name: str, *, default: int) -> int:
    """A number, 0 or more, of the query.

    Raises:
        Refusal: `invalid_request`.
    """
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Refusal("invalid_request", f"{name}={text!r} is no whole number.", "Write for example 0.", field=name)
    return int(text)


def flag(request: Request, name: str) -> bool:
    """Yes or no in the query; no when left out.

    Raises:
        Refusal: `invalid_request`.
    """
    text = request.query_params.get(name, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        raise Refusal("invalid_request", f"{name}={text!r} is neither true nor false.", "Write `true`.", field=name)
    return text in {"true", "1"}


def uploaded_file(request: Request) -> tuple[Path, str]:
    """The `file` of a multipart body as a path on this disk, and the name that the client gave it.

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

"""Downloads from Hugging Face: look up a repository, pin it to a commit, and download with its own client.

`HF_ENDPOINT` selects another server, such as a mirror. An interrupted download resumes at its last byte, also in
another process; the client's `hf_hub_download` would start the file again. Files are verified if Hugging Face gives
their SHA-256.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune_hub.artifacts.manifest import sha256_of
from finetune_hub.spec.files import InvalidArtifactPath, check_relative_path
from finetune_hub.spec.huggingface_reference import HuggingFaceReference
from finetune_hub.spec.refusal import Refusal

RepositoryKind = Literal["model", "dataset"]
Access = Literal["open", "gated", "private"]
Login = str | Literal[False] | None  # False: no token. None: the token of this machine's user.
Report = Callable[[int, int], None]  # Called with downloaded and total bytes.

TIMEOUT_SECONDS = 30.0


class HuggingFaceRefusal(Refusal):
    """Hugging Face refuses a request."""

    def __init__(self, code: str, message: str, remedy: str, *, may_pass: bool = False) -> None:
        """Create the refusal.

        Args:
            may_pass: The error may be temporary, so that a retry can help.
        """
        super().__init__(code, message, remedy, failure_class="infrastructure" if may_pass else "bad_config")


@dataclass(frozen=True, slots=True)
class HuggingFaceFile:
    """A file of a repository. Unknown facts are None."""

    path: str
    size_bytes: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class HuggingFaceRepository:
    """A repository at one commit."""

    reference: HuggingFaceReference  # Pinned.
    kind: RepositoryKind
    commit: str
    license: str
    access: Access
    files: list[HuggingFaceFile]


def look_up(reference: HuggingFaceReference, kind: RepositoryKind, *, token: Login) -> HuggingFaceRepository:
    """Look up the repository at the revision.

    Raises:
        HuggingFaceRefusal: `unknown_repository`, `unknown_revision`, `repository_gated`, `huggingface_token_refused`,
            `fetch_failed`.
    """
    with _refusals(reference, kind):
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        options: dict[str, Any] = {"revision": reference.revision, "files_metadata": True, "timeout": TIMEOUT_SECONDS}
        info: Any = (api.model_info if kind == "model" else api.dataset_info)(reference.repository, **options)
        return HuggingFaceRepository(
            reference=reference.at(info.sha),
            kind=kind,
            commit=info.sha,
            license=_license_of(info.card_data),
            access="gated" if info.gated else "private" if info.private else "open",
            files=[
                HuggingFaceFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None)
                for file in info.siblings
                if _stays_inside(file.rfilename)
            ],
        )


def fetch_files(
    repository: HuggingFaceRepository,
    files: Sequence[HuggingFaceFile],
    folder: Path,
    *,
    token: Login,
    report: Report = lambda done, total: None,
) -> None:
    """Download the files into the folder, resuming an interrupted call.

    Raises:
        HuggingFaceRefusal: as `look_up`, or `download_damaged`.
    """
    total = sum(file.size_bytes or 0 for file in files)
    before = 0

    def report_file(done: int) -> None:
        report(before + done, total)

    for file in files:
        target = folder / file.path
        if not target.is_file():
            _fetch(repository, file, target, token, report_file)
        before += target.stat().st_size
        report_file(0)


def _fetch(
    repository: HuggingFaceRepository, file: HuggingFaceFile, target: Path, token: Login, report: Callable[[int], None]
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    with _refusals(repository.reference, repository.kind):
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]

        disable_progress_bars()
        url = hf_hub_url(
            repository.reference.repository, file.path, repo_type=repository.kind, revision=repository.commit
        )
        with _Counted(partial, report) as opened:
            http_get(
                url,
                opened,
                resume_size=opened.tell(),
                headers=build_hf_headers(token=token),
                expected_size=file.size_bytes,
            )
    if file.sha256 is not None and sha256_of(partial) != file.sha256:
        partial.unlink()
        raise HuggingFaceRefusal(
            "download_damaged",
            f"{file.path} does not match the SHA-256 from Hugging Face and was deleted.",
            "Try again.",
            may_pass=True,
        )
    partial.replace(target)


class _Counted(io.BufferedWriter):
    """A file opened for appending that reports its size."""

    def __init__(self, path: Path, report: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "a"))
        self._report = report

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        self._report(self.tell())
        return written


@contextmanager
def _refusals(reference: HuggingFaceReference, kind: RepositoryKind) -> Iterator[None]:
    """Convert exceptions of huggingface_hub to refusals. Its messages may contain headers, ours never do."""
    try:
        from huggingface_hub import errors
    except ModuleNotFoundError as missing:
        raise HuggingFaceRefusal(
            "fetch_failed",
            "huggingface_hub is not installed here.",
            'Install it with `pip install "finetune_hub[all]"`.',
        ) from missing
    name = reference.repository
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    page = f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
    try:
        yield
    except HuggingFaceRefusal:  # Raised by the report of the bytes, such as a size limit.
        raise
    except errors.GatedRepoError as gated:
        raise HuggingFaceRefusal(
            "repository_gated",
            f"{name} is gated: only accounts that have accepted its terms can download it.",
            f"Accept the terms at {page}, then ask a team admin to set a token of that account (Team page, or "
            "`finetune-hub huggingface-token set`). `finetune-hub train` uses HF_TOKEN.",
        ) from gated
    except errors.RevisionNotFoundError as unknown:
        raise HuggingFaceRefusal(
            "unknown_revision",
            f"{name} has no revision {reference.revision!r}.",
            f"Use a branch, tag or commit of {page}, or leave it out for the main branch.",
        ) from unknown
    except errors.RepositoryNotFoundError as unknown:
        raise HuggingFaceRefusal(
            "unknown_repository",
            f"Hugging Face has no {kind} {name}, or it is private.",
            "Check the id. A private one needs the team's Hugging Face token (for `finetune-hub train`: HF_TOKEN).",
        ) from unknown
    except errors.HFValidationError as invalid:
        raise HuggingFaceRefusal(
            "unknown_repository", f"{name!r} is not a valid id on Hugging Face.", "Use `owner/name`."
        ) from invalid
    except errors.HfHubHTTPError as refused:
        status = refused.response.status_code
        if status in (401, 403):
            raise HuggingFaceRefusal(
                "huggingface_token_refused",
                f"Hugging Face rejects the token ({status}).",
                "Set a valid token with read access.",
            ) from refused
        raise _unreachable(name, f"status {status}", endpoint) from refused
    except Exception as broken:  # The client's HTTP library and its errors vary between versions.
        raise _unreachable(name, type(broken).__name__, endpoint) from broken


def _unreachable(name: str, why: str, endpoint: str) -> HuggingFaceRefusal:
    return HuggingFaceRefusal(
        "fetch_failed",
        f"{name} could not be downloaded from Hugging Face at {endpoint} ({why}).",
        "Check the network and HF_ENDPOINT, then try again to resume. Or use the folder of a local copy.",
        may_pass=True,
    )


def _license_of(card: Any) -> str:
    """Return the licence in a repository's card; for `other`, its own name."""
    if card is None:
        return ""
    found = card.get("license")
    if found == "other":
        found = card.get("license_name") or found
    return ", ".join(found) if isinstance(found, list) else str(found or "")


def _stays_inside(path: str) -> bool:
    try:
        return bool(check_relative_path(path))
    except InvalidArtifactPath:
        return False

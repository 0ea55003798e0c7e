"""What Hugging Face holds: looked up once, pinned to a commit, and fetched by its own client.

`HF_ENDPOINT` names another server of the same kind, such as a mirror. A broken download is resumed from its last byte,
also in another process: the client's own `hf_hub_download` starts such a file again. Files that Hugging Face gives a
SHA-256 of are checked against it.
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
Login = str | Literal[False] | None  # False: none. None: whatever this machine's user is signed in with.
Report = Callable[[int, int], None]  # Bytes that are there, and all of them.

TIMEOUT_SECONDS = 30.0


class HuggingFaceRefusal(Refusal):
    """The hub does not give what was asked for."""

    def __init__(self, code: str, message: str, remedy: str, *, may_pass: bool = False) -> None:
        """
        Args:
            may_pass: Trying again may help: nothing is wrong with what was asked for.
        """
        super().__init__(code, message, remedy, failure_class="infrastructure" if may_pass else "bad_config")


@dataclass(frozen=True, slots=True)
class HuggingFaceFile:
    """One file of a repository; what Hugging Face does not say is None."""

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
    """The repository as it is at the revision.

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
    """Bring the files into the folder, going on where an earlier call was broken off.

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
            f"{file.path} does not have the SHA-256 that Hugging Face names; it was thrown away.",
            "Try again.",
            may_pass=True,
        )
    partial.replace(target)


class _Counted(io.BufferedWriter):
    """A file that is written on, and tells how large it is."""

    def __init__(self, path: Path, report: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "a"))
        self._report = report

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        self._report(self.tell())
        return written


@contextmanager
def _refusals(reference: HuggingFaceReference, kind: RepositoryKind) -> Iterator[None]:
    """Turn what huggingface_hub raises into words; its own may quote headers, ours never do."""
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
    except errors.GatedRepoError as gated:
        raise HuggingFaceRefusal(
            "repository_gated",
            f"{name} is gated: Hugging Face gives it only to accounts that accepted its terms.",
            f"Accept them at {page}, then have a team admin set the team's Hugging Face token (Team page, or "
            "`finetune-hub huggingface-token set`) to one of that account. `finetune-hub train` reads HF_TOKEN.",
        ) from gated
    except errors.RevisionNotFoundError as unknown:
        raise HuggingFaceRefusal(
            "unknown_revision",
            f"{name} has no revision {reference.revision!r}.",
            f"Give a branch, tag or commit of {page}, or leave it out for the main branch.",
        ) from unknown
    except errors.RepositoryNotFoundError as unknown:
        raise HuggingFaceRefusal(
            "unknown_repository",
            f"Hugging Face has no {kind} {name}, or shows it to its members only.",
            "Check the id; a private one needs the team's Hugging Face token (for `finetune-hub train`: HF_TOKEN).",
        ) from unknown
    except errors.HFValidationError as invalid:
        raise HuggingFaceRefusal(
            "unknown_repository", f"{name!r} is no id on Hugging Face.", "Write `owner/name`."
        ) from invalid
    except errors.HfHubHTTPError as refused:
        status = refused.response.status_code
        if status in (401, 403):
            raise HuggingFaceRefusal(
                "huggingface_token_refused",
                f"Hugging Face refuses the token ({status}).",
                "Set one that is valid and may read.",
            ) from refused
        raise _unreachable(name, f"status {status}", endpoint) from refused
    except Exception as broken:  # The client changes its HTTP library, and so its errors, from version to version.
        raise _unreachable(name, type(broken).__name__, endpoint) from broken


def _unreachable(name: str, why: str, endpoint: str) -> HuggingFaceRefusal:
    return HuggingFaceRefusal(
        "fetch_failed",
        f"{name} could not be fetched from Hugging Face at {endpoint} ({why}).",
        "Check the network and HF_ENDPOINT and try again: it goes on from here. Or give the folder of a copy.",
        may_pass=True,
    )


def _license_of(card: Any) -> str:
    """The licence that a repository's card names; `other` goes by its own name."""
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

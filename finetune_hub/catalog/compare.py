"""Compare two dataset versions, limited to what a web process can do. Results are cached, as versions never change."""

from __future__ import annotations

from functools import lru_cache

from finetune_hub.catalog.local_files import dataset_file
from finetune_hub.catalog.models import DatasetVersion
from finetune_hub.catalog.tombstones import require_alive
from finetune_hub.data.comparison import Comparison, diff_files, find_overlap
from finetune_hub.spec.refusal import Refusal

MAX_ROWS = 200_000


def compare_versions(version: DatasetVersion, other: DatasetVersion) -> Comparison:
    """Compare with the other version: rows added, removed and changed, and prompts in both.

    Raises:
        Refusal: `too_many_rows`, `dataset_deleted`.
        ArtifactError: the store does not have a file.
    """
    require_comparable(version)
    require_comparable(other)
    return _comparison(version, other)


def require_comparable(version: DatasetVersion) -> None:
    """Check that the version is small enough to compare.

    Raises:
        Refusal: `too_many_rows`, `dataset_deleted`.
    """
    require_alive(version)
    if version.row_count > MAX_ROWS:
        raise Refusal(
            "too_many_rows",
            f"{version} has {version.row_count:,} rows; the limit for this is {MAX_ROWS:,}.",
            "Download the files and compare or split them on your machine.",
        )


@lru_cache(maxsize=32)
def _comparison(version: DatasetVersion, other: DatasetVersion) -> Comparison:
    new, old = dataset_file(version), dataset_file(other)
    return Comparison(diff=diff_files(old, new), overlap=find_overlap(new, old))

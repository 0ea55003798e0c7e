"""Split a dataset version by a seed into training and held-out rows, with no prompt on both sides."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from django.conf import settings

from finetune_hub.accounts.models import User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.catalog.actions import Origin, check_name, keep_dataset_version
from finetune_hub.catalog.compare import require_comparable
from finetune_hub.catalog.local_files import dataset_file
from finetune_hub.catalog.models import DatasetVersion
from finetune_hub.data.comparison import choose_held_out
from finetune_hub.spec.refusal import Refusal

TRAIN, HELD_OUT = "-train", "-held-out"


def split_version(
    version: DatasetVersion, user: User, *, fraction: float, seed: int
) -> tuple[DatasetVersion, DatasetVersion]:
    """Add training and held-out rows as the newest versions of `NAME-train` and `NAME-held-out`.

    The same fraction and seed give the same two versions. Rows with the same prompt go to the same side.

    Raises:
        Refusal: `forbidden`, `invalid_fraction`, `too_few_rows`, `too_many_rows`, `dataset_deleted`, `invalid_name`.
    """
    require_right(Right.SPLIT_DATASET, user, version.dataset.team)
    if not 0 < fraction < 1:
        raise Refusal(
            "invalid_fraction", f"{fraction} is not between 0 and 1.", "Use a fraction such as 0.1.", field="fraction"
        )
    require_comparable(version)
    name = version.dataset.name
    for part in (TRAIN, HELD_OUT):
        check_name(name + part)
    path = dataset_file(version)
    chosen = choose_held_out(path, fraction, seed)
    if not 0 < len(chosen) < version.row_count:
        raise Refusal(
            "too_few_rows",
            f"{version} cannot be split: too few of its rows have different prompts.",
            "Add rows or choose another fraction.",
            field="fraction",
        )
    workshop = settings.HOME / "tmp"
    workshop.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=workshop) as temporary:
        versions = []
        for part, is_held_out in ((TRAIN, False), (HELD_OUT, True)):
            file = Path(temporary) / f"{name}{part}.jsonl"
            with path.open("rb") as rows, file.open("wb") as target:
                target.writelines(row for number, row in _numbered(rows) if (number in chosen) == is_held_out)
            share = f"{fraction:.4g} held out" if is_held_out else f"all but {fraction:.4g}"
            added = keep_dataset_version(
                version.dataset.team,
                user,
                name=name + part,
                file=file,
                filename=file.name,
                origin=Origin(version, f"{share}, seed {seed}"),
            )
            versions.append(added)
    return versions[0], versions[1]


def _numbered(rows: Iterable[bytes]) -> Iterable[tuple[int, bytes]]:
    return enumerate((row for row in rows if not row.isspace()), start=1)

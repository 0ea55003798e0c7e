"""What brings a database up to date with the installed code, as `upgrade_database` says it in its first line.

`finetune-hub up` knows no Django and runs that command as a process; it tells the line to whoever watches.
"""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel

from finetune_hub.embedded.errors import DatabaseNewer

MARK = "upgrade: "


class Upgrade(BaseModel):
    """Found out before anything is changed. Migrations are pairs of app and name."""

    version: str  # of the installed code
    found_version: str | None  # that upgraded the database last; None: it is new, or from before releases were noted
    is_new: bool
    pending: list[tuple[str, str]]  # in the order in which they will be applied
    unknown: list[tuple[str, str]]  # applied, and not part of the installed code

    @classmethod
    def read(cls, output: str) -> Upgrade | None:
        """What a process has said. None: nothing yet."""
        whole_lines = output.split("\n")[:-1]
        found = next((line for line in whole_lines if line.startswith(MARK)), None)
        return cls.model_validate_json(found.removeprefix(MARK)) if found else None

    def line(self) -> str:
        return f"{MARK}{self.model_dump_json()}"

    def sentence(self) -> str:
        """What will be done; empty when nothing will be."""
        if not self.pending or self.unknown:
            return ""
        count = counted(len(self.pending))
        if self.is_new:
            return f"Making the tables of a new database: {count}."
        last = dict(self.pending)
        apps = Counter(app for app, _ in self.pending)
        steps = ", ".join(f"{app} {number} to {last[app]}" for app, number in apps.items())
        found = f"finetune_hub {self.found_version}" if self.found_version else "an earlier release"
        return f"Upgrading the database from {found} to {self.version}: {count} ({steps})."

    def refuse_newer(self) -> None:
        """
        Raises:
            DatabaseNewer: the database has been upgraded by a newer release than this one.
        """
        if self.unknown:
            is_named = self.found_version not in {None, self.version}
            raise DatabaseNewer(
                version=self.version,
                count=counted(len(self.unknown)),
                example=".".join(self.unknown[-1]),
                newer=f"finetune_hub {self.found_version}" if is_named else "the newer finetune_hub",
            )


def counted(migrations: int) -> str:
    return f"{migrations} migration{'' if migrations == 1 else 's'}"

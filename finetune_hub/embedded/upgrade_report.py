"""The database upgrade that `upgrade_database` reports in its first line.

`finetune-hub up` does not import Django. It runs that command as a process and shows the report to the user.
"""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel

from finetune_hub.embedded.errors import DatabaseNewer

MARK = "upgrade: "


class Upgrade(BaseModel):
    """A pending upgrade, determined before anything is changed. Migrations are pairs of app and name."""

    version: str  # of the installed code
    found_version: str | None  # of the last upgrade; None: a new database, or one from before versions were recorded
    is_new: bool
    pending: list[tuple[str, str]]  # in the order of application
    unknown: list[tuple[str, str]]  # applied, but not part of the installed code

    @classmethod
    def read(cls, output: str) -> Upgrade | None:
        """Parse a process's output; None if it has no report yet."""
        whole_lines = output.split("\n")[:-1]
        found = next((line for line in whole_lines if line.startswith(MARK)), None)
        return cls.model_validate_json(found.removeprefix(MARK)) if found else None

    def line(self) -> str:
        return f"{MARK}{self.model_dump_json()}"

    def sentence(self) -> str:
        """Return what will be done; empty if nothing."""
        if not self.pending or self.unknown:
            return ""
        count = counted(len(self.pending))
        if self.is_new:
            return f"Creating the tables of a new database: {count}."
        last = dict(self.pending)
        apps = Counter(app for app, _ in self.pending)
        steps = ", ".join(f"{app} {number} to {last[app]}" for app, number in apps.items())
        found = f"finetune_hub {self.found_version}" if self.found_version else "an earlier release"
        return f"Upgrading the database from {found} to {self.version}: {count} ({steps})."

    def refuse_newer(self) -> None:
        """Refuse a database that is newer than the installed code.

        Raises:
            DatabaseNewer: a newer release has upgraded the database.
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

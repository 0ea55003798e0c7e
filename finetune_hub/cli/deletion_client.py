"""The client for deletions: preview, delete, list the trash, restore."""

from __future__ import annotations

from finetune_hub.cli.answers import DatasetVersionDetail, Deletion, Outlook
from finetune_hub.cli.connection import HubConnection, HubError, Page


class DeletionClient(HubConnection):
    """Things are named by their path in the API, such as `adapters/ad-…` or `datasets/ds-…/versions/3`."""

    def deletion_outlook(self, path: str) -> Outlook:
        """Return what deleting it would do: what needs it, what stops working, and the bytes that are freed."""
        return self._get(Outlook, f"{path}/deletion")

    def delete(self, path: str, *, accept_dependents: bool = False) -> Deletion:
        """Delete it until it is restored or purged. Repeating it returns the same deletion.

        Args:
            accept_dependents: Delete it although other things stop working.
        """
        params = {"accept_dependents": "true"} if accept_dependents else {}
        if not (path.startswith("datasets/") and "/versions/" in path):
            return self._ask(Deletion, "DELETE", path, params=params)
        version = self._ask(DatasetVersionDetail, "DELETE", path, params=params)
        return self.deletion(version.deletion_id or "")

    def trash(self) -> list[Deletion]:
        """Return what was deleted in the team and can be restored."""
        return self._list(Page[Deletion], "trash")

    def deletion(self, deletion_id: str) -> Deletion:
        """Return the deletion from the team's trash.

        Raises:
            HubError: `unknown_deletion`.
        """
        found = next((each for each in self.trash() if each.id == deletion_id), None)
        if found is None:
            message = f"The team's trash does not contain {deletion_id!r}."
            raise HubError("unknown_deletion", message, "See `finetune-hub trash list`.")
        return found

    def restore(self, deletion_id: str) -> Deletion:
        """Restore everything that was deleted together. Repeating it has no effect."""
        return self._ask(Deletion, "POST", f"trash/{deletion_id}/restore")

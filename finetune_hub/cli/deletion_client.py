"""The part of the client that is about deletion: what it would do, the deed itself, and the way back."""

from __future__ import annotations

from finetune_hub.cli.answers import DatasetVersionDetail, Deletion, Outlook
from finetune_hub.cli.connection import HubConnection, HubError, Page


class DeletionClient(HubConnection):
    """Things by their address in the API, such as `adapters/ad-…` or `datasets/ds-…/versions/3`."""

    def deletion_outlook(self, path: str) -> Outlook:
        """What deleting it would do: what needs it, what stops working, and the bytes that go."""
        return self._get(Outlook, f"{path}/deletion")

    def delete(self, path: str, *, accept_dependents: bool = False) -> Deletion:
        """Delete it, until it is restored or its time is over. A second time answers with the first.

        Args:
            accept_dependents: also where something stops working without it.
        """
        params = {"accept_dependents": "true"} if accept_dependents else {}
        if not (path.startswith("datasets/") and "/versions/" in path):
            return self._ask(Deletion, "DELETE", path, params=params)
        version = self._ask(DatasetVersionDetail, "DELETE", path, params=params)
        return self.deletion(version.deletion_id or "")

    def trash(self) -> list[Deletion]:
        """What was deleted in the team and can be restored."""
        return self._list(Page[Deletion], "trash")

    def deletion(self, deletion_id: str) -> Deletion:
        """
        Raises:
            HubError: `unknown_deletion`.
        """
        found = next((each for each in self.trash() if each.id == deletion_id), None)
        if found is None:
            message = f"There is nothing {deletion_id!r} in the team's trash."
            raise HubError("unknown_deletion", message, "See `finetune-hub trash list`.")
        return found

    def restore(self, deletion_id: str) -> Deletion:
        """Restore all that was deleted together; a second time changes nothing."""
        return self._ask(Deletion, "POST", f"trash/{deletion_id}/restore")

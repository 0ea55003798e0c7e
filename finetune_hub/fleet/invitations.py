"""Inviting workers on other machines, for the page, the API and the command line.

An invitation contains a password and the hub's own addresses: it is shown once, and neither stored nor logged.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from django.conf import settings
from django.db import connection

from finetune_hub.accounts.actions import record
from finetune_hub.accounts.models import User, Verb
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.fleet.worker_role import Invitation, invite_worker, revoke_role
from finetune_hub.spec.ids import WORKER_NAME
from finetune_hub.spec.refusal import Refusal

ON_THIS_MACHINE = r"^(unix|file)://|@/|(//|@)(localhost|127\.0\.0\.1|\[::1\])([:/]|$)"


@dataclass(frozen=True)
class WayIn:
    """How an invited worker joins."""

    worker_name: str
    environment: dict[str, str] = field(repr=False)
    """Variables of the worker's process. DATABASE_URL and REDIS_URL contain passwords."""

    @property
    def command(self) -> str:
        return f"finetune-hub worker --name {self.worker_name}"

    @property
    def script(self) -> str:
        """The commands to run on the new machine."""
        lines = [f"export {variable}={shlex.quote(value)}" for variable, value in self.environment.items()]
        return "\n".join([*lines, self.command])

    @property
    def only_here(self) -> list[str]:
        """Variables with an address that only works on the hub's own machine."""
        return [variable for variable, value in self.environment.items() if re.search(ON_THIS_MACHINE, value)]


def invite(name: str, *, actor: User | None) -> WayIn:
    """Let a worker join from another machine. A repeated invitation replaces the password.

    Args:
        actor: None: somebody in a shell on the hub's machine, which is not recorded.

    Raises:
        Refusal: `forbidden`, `invalid_name`, `may_not_create_roles`, `too_many_workers`.
    """
    if actor:
        require_right(Right.INVITE_WORKER, actor)
    if not re.fullmatch(WORKER_NAME, name):
        raise Refusal(
            "invalid_name", f"{name!r} is not a valid worker name.", "Use up to 64 of a-z, 0-9 and -.", field="name"
        )
    invitation = invite_worker(name)
    if actor:
        record(Verb.WORKER_INVITED, name, team=None, actor=actor)
    addresses = {
        "DATABASE_URL": database_url(invitation),
        "REDIS_URL": settings.REDIS_URL,
        "ARTIFACT_URL": settings.ARTIFACT_URL,
    }
    return WayIn(name, addresses)


def revoke(name: str, *, actor: User | None) -> bool:
    """Revoke an invited worker's access at once; its attempts end with their leases. False: it has no role.

    Args:
        actor: None: somebody in a shell on the hub's machine.

    Raises:
        Refusal: `forbidden`; `role_not_dropped`: it has no access any more, but something keeps its role.
    """
    if actor:
        require_right(Right.REVOKE_WORKER, actor)
    is_revoked = revoke_role(name)
    if is_revoked and actor:
        record(Verb.WORKER_REVOKED, name, team=None, actor=actor)
    return is_revoked


def database_url(invitation: Invitation) -> str:
    """Return the URL of the hub's database for the worker's role. The password needs no URL escaping."""
    facts = connection.settings_dict
    who = f"{invitation.role_name}:{invitation.password}"
    if str(facts["HOST"]).startswith("/"):
        return f"postgresql://{who}@/{facts['NAME']}?host={facts['HOST']}"
    return f"postgresql://{who}@{facts['HOST'] or 'localhost'}:{facts['PORT'] or 5432}/{facts['NAME']}"

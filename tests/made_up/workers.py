"""What attempts of the made-up kinds do."""

from __future__ import annotations

from finetune_hub.jobs import worker_port
from tests.made_up.documents import HeraldRun, TallyRun
from workers.inputs import dataset_files
from workers.kinds.work import WORK, Finish, Start, Work

PROGRAM = "tests.made_up.program"


class TallyWork(Work):
    kind = "tally"

    def prepare(self, start: Start) -> None:
        [rows] = dataset_files(start.job)
        run = TallyRun(file=rows.path, letter=start.job.spec["letter"], output_dir=start.folder.output)
        start.add_command(PROGRAM, "tally", run)

    def publish(self, finish: Finish) -> None:
        worker_port.succeed(finish.lease, finish.result)


class HeraldWork(Work):
    kind = "herald"

    def prepare(self, start: Start) -> None:
        start.add_command(PROGRAM, "herald", HeraldRun(word=start.job.spec["word"], output_dir=start.folder.output))

    def publish(self, finish: Finish) -> None:
        worker_port.succeed(finish.lease, finish.result)


WORK.update({work.kind: work for work in (TallyWork(), HeraldWork())})

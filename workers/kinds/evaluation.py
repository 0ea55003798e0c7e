"""An evaluation's attempt: answer the rows with and without the adapter."""

from __future__ import annotations

from finetune_hub.jobs import worker_port
from finetune_hub.spec.run import EvaluateRun
from finetune_hub.spec.training import TrainingSpec
from workers.inputs import adapter_folder, base_model_folder, dataset_files
from workers.kinds.work import ENGINE, Finish, Start, Work


class EvaluationWork(Work):
    kind = "evaluate"

    def prepare(self, start: Start) -> None:
        job = start.job
        assert job.adapter_version is not None
        method = TrainingSpec.model_validate(job.adapter_version.training_spec).method
        run = EvaluateRun(
            **method.base_quantization,
            base_model_dir=base_model_folder(job.over),
            adapter_dir=adapter_folder(job.adapter_version),
            datasets=dataset_files(job),
            output_dir=start.folder.output,
            device=start.device,
            threads=start.threads,
            **{name: value for name, value in job.spec.items() if value is not None},
        )
        start.add_command(ENGINE, "evaluate", run)

    def publish(self, finish: Finish) -> None:
        worker_port.succeed(finish.lease, finish.result)

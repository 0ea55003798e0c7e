"""The last look before the queue: the first rows through the base model's own template and tokenizer, without torch."""

from __future__ import annotations

from itertools import islice

from django.db import transaction

from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.catalog.local_files import dataset_file, tokenizer_folder
from finetune_hub.data.chat_template import ChatTemplate, InvalidChatTemplate
from finetune_hub.data.defects import InvalidDataset
from finetune_hub.data.encode import encode_row
from finetune_hub.data.intake import read_rows
from finetune_hub.jobs.expectations import expected_seconds
from finetune_hub.jobs.lifecycle import Failed, enqueue, fail_job, lock_job
from finetune_hub.jobs.models import Job, JobKind, JobState
from finetune_hub.jobs.planning import memory_after_shrinking

LOOKED_AT_ROWS = 200


def validate_job(job_id: str) -> None:
    """validating → queued, or → failed when the rows do not fit the base model. A second call changes nothing."""
    job = Job.objects.select_related("base_model", "team").get(pk=job_id)
    if job.state != JobState.VALIDATING:
        return
    failed, message = None, ""
    if job.kind == JobKind.TRAIN:
        try:
            message = look_at_rows(job)
        except InvalidDataset as error:
            failed = Failed("bad_data", str(error), "Mend the rows, upload them as a new version and submit again.")
        except InvalidChatTemplate as error:
            failed = Failed("bad_data", error.message, error.remedy)
        except ArtifactError as error:
            failed = Failed("infrastructure", str(error), "Ask whoever runs the artifact store.")
    seconds = None if failed else expected_seconds(job)
    needed = memory_after_shrinking(job) if job.adjustments and not failed else job.memory_bytes_needed
    with transaction.atomic():
        job = lock_job(job_id)
        if job.state != JobState.VALIDATING:
            return
        if failed:
            fail_job(job, failed)
        else:
            Job.objects.filter(pk=job.pk).update(expected_seconds=seconds, memory_bytes_needed=needed)
            enqueue(job, message)


def look_at_rows(job: Job) -> str:
    """Encode the first rows of every dataset and say what was seen.

    Raises:
        InvalidDataset, InvalidChatTemplate: the rows cannot be trained on with this base model.
        ArtifactError: a file is gone.
    """
    template = ChatTemplate.from_folder(tokenizer_folder(job.over))
    max_seq_len = job.training_spec().training.max_seq_len
    rows = truncated = supervised = 0
    for job_dataset in job.job_datasets.select_related("dataset_version"):
        for _, row in islice(read_rows(dataset_file(job_dataset.dataset_version)), LOOKED_AT_ROWS):
            encoded = encode_row(template, row, max_seq_len)
            rows += 1
            truncated += encoded.truncated_tokens > 0
            supervised += sum(encoded.supervised)
    if supervised == 0:
        raise InvalidChatTemplate(
            f"No token of the first {rows} rows is supervised: all answers lie beyond max_seq_len={max_seq_len}.",
            "Raise `max_seq_len`, or shorten the prompts.",
        )
    cut = f"; {truncated} of them are cut at {max_seq_len} tokens" if truncated else ""
    return f"The first {rows} rows have {supervised / rows:.0f} supervised tokens each{cut}."

"""How many tokens a run processes: in its largest micro-batch, and in total. From row lengths if they are known.

largest micro-batch   B · mean + σ · √(2 B ln n)     of n draws; at most the B longest rows, at most B · max_seq_len
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_hub.spec.training import TrainingSpec

_BYTES_A_TOKEN = 4
_SUPERVISED_SHARE = 0.5  # If unknown: the answers are about half of a conversation.


@dataclass(frozen=True)
class Rows:
    """What planning knows about the datasets; for pairs, about the chosen answers."""

    count: int
    """Rows per epoch, which draws each dataset's rows as often as its weight says."""
    lengths: Sequence[int] = ()
    """Tokens of some or all rows before truncation; empty: unknown, so every row counts as `max_seq_len` long."""
    supervised_share: float = _SUPERVISED_SHARE

    @classmethod
    def guessed(cls, count: int, size_bytes: int) -> Rows:
        """Guess lengths without a tokenizer: four bytes per token; rows of half, once and twice the mean."""
        mean = max(1, round(size_bytes / count / _BYTES_A_TOKEN))
        return cls(count, (max(1, mean // 2), mean, 2 * mean))

    def share_lost(self, max_seq_len: int) -> float | None:
        """Return the share of tokens that is truncated at this length; None: unknown."""
        if not self.lengths:
            return None
        return sum(max(0, length - max_seq_len) for length in self.lengths) / sum(self.lengths)


@dataclass(frozen=True)
class Workload:
    """What the run computes."""

    micro_batch_tokens: float
    """Tokens of the largest micro-batch."""
    longest_row: float
    supervised_share: float
    steps: int
    tokens_per_step: float
    micro_batches_per_step: int

    @property
    def supervised_tokens(self) -> float:
        """Supervised tokens of the largest micro-batch."""
        return self.micro_batch_tokens * self.supervised_share

    @property
    def tokens(self) -> float:
        return self.steps * self.tokens_per_step


def workload_of(spec: TrainingSpec, rows: Rows) -> Workload:
    """Return the run's workload; virtual tokens of prompt tuning are counted by `memory`, not here."""
    options = spec.training
    documents = spec.objective.documents_of_row
    rows_per_step = options.micro_batch_size * options.gradient_accumulation_steps
    batch = documents * options.micro_batch_size
    trained_rows = rows.count * (1 - spec.evaluation.fraction)
    steps = options.max_steps or max(1, math.ceil(trained_rows * options.epochs / rows_per_step))
    cut = sorted(min(length, options.max_seq_len) for length in rows.lengths or [options.max_seq_len])
    mean = sum(cut) / len(cut)
    deviation = math.sqrt(sum((length - mean) ** 2 for length in cut) / len(cut))
    draws = max(2, steps * options.gradient_accumulation_steps)
    longest = cut[-batch:]
    largest = min(
        batch * mean + deviation * math.sqrt(2 * batch * math.log(draws)),
        sum(longest) if len(longest) == batch else batch * cut[-1],
    )
    if not options.packing:
        largest = float(documents * cut[-1])
    return Workload(
        micro_batch_tokens=largest,
        longest_row=float(cut[-1]),
        supervised_share=rows.supervised_share,
        steps=steps,
        tokens_per_step=documents * rows_per_step * mean,
        micro_batches_per_step=options.gradient_accumulation_steps,
    )

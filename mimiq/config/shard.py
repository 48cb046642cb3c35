"""A share of a calibration set's batches: what one of several jobs makes by itself."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mimiq.errors import BadInput

SLURM = "slurm"
_TASK = "SLURM_ARRAY_TASK_ID"


@dataclass(frozen=True, order=True)
class Shard:
    """Every ``count``-th batch of a set, from the ``index``-th on.

    Attributes:
        index: from 1 to ``count``.
        count: how many shards there are.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise BadInput(
                f"`shard={self}` does not exist.",
                f"Of {max(self.count, 1)} there are 1/{max(self.count, 1)} to "
                f"{max(self.count, 1)}/{max(self.count, 1)}.",
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, batch: int) -> bool:
        """Whether the batch of this number, from 0, is of this shard."""
        return batch % self.count == self.index - 1

    @staticmethod
    def of(batch: int, count: int) -> Shard:
        """The one of ``count`` shards that holds a batch."""
        return Shard(batch % count + 1, count)


def parse_shard(text: str, environment: Mapping[str, str] | None = None) -> Shard:
    """``2/8``, or ``slurm`` for the place of this task in its array.

    Args:
        text: as a person gives it.
        environment: this process's by default.

    Raises:
        BadInput: it has another form, does not exist, or there is no array.
    """
    if text == SLURM:
        return _of_array(os.environ if environment is None else environment)
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match:
        raise BadInput(
            f"`shard={text}` is not of the form I/N.",
            "Give for example 1/4 to 4/4, or slurm in an array of SLURM jobs.",
        )
    return Shard(int(match[1]), int(match[2]))


def _of_array(environment: Mapping[str, str]) -> Shard:
    try:
        task = int(environment[_TASK])
        first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
        count = int(environment["SLURM_ARRAY_TASK_COUNT"])
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"`shard={SLURM}` was asked for, and this is no task of a SLURM array: {_TASK} and "
            "SLURM_ARRAY_TASK_COUNT are not set.",
            "Submit the job as an array of tasks, or give the shard as I/N.",
        ) from error
    return Shard((task - first) // step + 1, count)

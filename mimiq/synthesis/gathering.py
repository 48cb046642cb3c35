"""A calibration set that several ranks make: who makes which batch, and how all come together."""

from __future__ import annotations

from mimiq.calibrate.storage import shard_path
from mimiq.calibrate.writing import CalibrationSetWriter
from mimiq.files import write_whole
from mimiq.ranks import Group


def missing_anywhere(group: Group, writer: CalibrationSetWriter, count: int) -> list[int]:
    """The batches that no rank has, the same on every rank."""
    gathered = group.gather([writer.has(index) for index in range(count)])
    return [index for index in range(count) if not any(has[index] for has in gathered)]


def collect(group: Group, writer: CalibrationSetWriter, count: int) -> None:
    """Give every rank the batches that it lacks; none are sent where they share a folder."""
    if group.world == 1:
        return
    group.barrier()
    gathered = group.gather([writer.has(index) for index in range(count)])
    for index in range(count):
        owners = [rank for rank, has in enumerate(gathered) if has[index]]
        if len(owners) == group.world or not owners:
            continue
        path = shard_path(writer.path, index)
        own = path.read_bytes() if group.rank == owners[0] else None
        data = group.send(own, owners[0])
        if group.rank not in owners:
            write_whole(path, data)
    group.barrier()

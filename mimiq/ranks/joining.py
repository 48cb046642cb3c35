"""How a process finds the others of its run, and which of them speaks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.ranks.group import Group, current, using

RENDEZVOUS = "MIMIQ_RENDEZVOUS_SECONDS"
_RENDEZVOUS_SECONDS = 300.0
# One rank may work by itself for as long as a stage takes; one that dies is noticed at once.
_COLLECTIVE = timedelta(days=2)
_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_stores: list[Any] = []


def local_rank() -> int | None:
    """This process's number on its host; None where there is one process."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _world() > 1 else None


def may_speak() -> bool:
    """Whether an error is this process's to tell: the first to ask, of all ranks of a run.

    One mistake is found by all ranks alike, and the end of one is noticed by all others.
    """
    if _world() == 1:
        return True
    first = os.environ.get("RANK", "0") == "0"
    if not _stores:
        return first
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        return int(_stores[-1].add(f"mimiq/told/{attempt}", 1)) == 1
    except Exception:  # what holds the store has ended
        return first


@contextmanager
def joined() -> Iterator[Group]:
    """Inside the ``with`` this process works with the others of its run, if torchrun started some.

    Raises:
        BadInput: the environment says that there are others, and not where.
        EnvironmentLacks: they cannot be reached.
    """
    if _world() == 1 or current().world > 1:
        yield current()
        return
    missing = [name for name in _NAMES if not os.environ.get(name)]
    if missing:
        raise BadInput(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set.",
            "Start the processes with torchrun, or unset WORLD_SIZE for one process.",
        )
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    from mimiq.ranks.distributed import RankLost, Ranks

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise RankLost("torchrun stopped all processes")

    before = signal.signal(signal.SIGTERM, end)
    try:
        store = _store()
        _stores.append(store)
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device((local_rank() or 0) % torch.cuda.device_count())
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=PrefixStore("mimiq", store),
            rank=int(os.environ["RANK"]),
            world_size=_world(),
            timeout=_COLLECTIVE,
        )
        with using(Ranks()) as group:
            yield group
        dist.destroy_process_group()
    finally:
        signal.signal(signal.SIGTERM, before)


def agree(facts: Mapping[str, str]) -> None:
    """Refuse ranks that would work on different things.

    Args:
        facts: by name, what must be the same on every rank.

    Raises:
        BadInput: on every rank, naming the first fact that differs.
    """
    gathered = current().gather(dict(facts))
    for name, wanted in gathered[0].items():
        for rank, others in enumerate(gathered):
            if others.get(name) != wanted:
                raise BadInput(
                    f"Rank {rank} has another {name} than rank 0: {others.get(name)}, and not "
                    f"{wanted}.",
                    "Start every process with the same mimiq, the same libraries and the same "
                    "arguments, and give all hosts the same weights.",
                )


def _world() -> int:
    text = os.environ.get("WORLD_SIZE", "") or "1"
    if not text.isdigit() or int(text) < 1:
        raise BadInput(
            f"WORLD_SIZE={text} is no number of processes.",
            "Start them with torchrun, or unset it.",
        )
    return int(text)


def _store() -> Any:
    """Where the ranks find each other: what torchrun's agent, or rank 0, holds."""
    from torch.distributed.rendezvous import rendezvous

    seconds = float(os.environ.get(RENDEZVOUS) or _RENDEZVOUS_SECONDS)
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, _, _ = next(
            rendezvous(
                "env://",
                int(os.environ["RANK"]),
                _world(),
                timeout=timedelta(seconds=seconds),
            )
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise EnvironmentLacks(
            f"The other processes of this run cannot be reached at {where}: nothing answered "
            f"within {seconds:g} seconds.",
            "Check that MASTER_ADDR and MASTER_PORT lead to the host of rank 0, and that its "
            f"firewall lets them pass; {RENDEZVOUS} waits longer.",
        ) from error
    return store

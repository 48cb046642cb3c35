"""Several ranks of one run, as torchrun starts them, forked from this process."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from mimiq import ranks
from mimiq.cli.failures import reported


def run_ranks(
    world: int,
    work: Callable[[int], object],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    ranks_started: int | None = None,
) -> list[tuple[int, str]]:
    """Exit code and standard error of each rank after ``work(rank)``, errors told as commands do.

    Args:
        world: how many ranks there are.
        work: what each does.
        folder: where what they say is kept.
        environment: more of it.
        ranks_started: where fewer are started than there are.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(ranks_started or world):
        child = os.fork()
        if child == 0:
            own = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                **(environment or {}),
            }
            _work(rank, work, own, folder / f"rank{rank}.txt")
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    said = [(folder / f"rank{rank}.txt").read_text() for rank in range(len(children))]
    return list(zip(codes, said, strict=True))


def _work(rank: int, work: Callable[[int], object], own: Mapping[str, str], said: Path) -> None:
    """Never returns: the child ends here, whatever happens in it."""
    code = 99
    try:
        os.environ.update(own)
        torch.set_num_threads(1)  # the threads of the process it was forked from are not there
        with said.open("w", buffering=1) as file:
            sys.stdout = sys.stderr = file
            try:
                with reported(), ranks.joined():
                    work(rank)
                code = 0
            except BaseException as error:
                code = getattr(error, "exit_code", code)
                if code == 99:
                    traceback.print_exc()
    finally:
        os._exit(code)

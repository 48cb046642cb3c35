"""The ranks of one run, over torch.distributed: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from mimiq.errors import EnvironmentLacks
from mimiq.ranks.group import Group

_PIECE = 1 << 26  # bytes that are sent at a time


class RankLost(EnvironmentLacks):
    """Another process of the run ended, or cannot be reached."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"Another process of this run ended or cannot be reached ({why}).",
            "Run the same command again: it goes on from what is finished.",
        )


class Ranks(Group):
    """The processes of torch.distributed's default group, which must be initialised."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    def barrier(self) -> None:
        # Over CPU tensors, which gloo moves: NCCL's own would keep a GPU busy with waiting.
        self.sum_([torch.zeros(1)])

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _lost():
            dist.all_reduce(flat)
        for tensor, part in zip(
            tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(part.reshape(tensor.shape))

    def share(self, value: Any = None) -> Any:
        return json.loads(self.send(json.dumps(value).encode() if self.first else None, 0))

    def gather(self, value: Any) -> list[Any]:
        own = json.dumps(value).encode()
        return [
            json.loads(self.send(own if rank == self.rank else None, rank))
            for rank in range(self.world)
        ]

    def send(self, data: bytes | None, source: int) -> bytes:
        length = torch.tensor([len(data or b"")])
        with _lost():
            dist.broadcast(length, source)
        whole = torch.empty(int(length), dtype=torch.uint8)
        if data:
            whole.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        for piece in whole.split(_PIECE) if len(whole) else ():
            with _lost():
                dist.broadcast(piece, source)
        return whole.numpy().tobytes()


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # DistBackendError and DistNetworkError are such
        raise RankLost((str(error).strip() or type(error).__name__).splitlines()[0]) from error

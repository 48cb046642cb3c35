"""What the ranks of one run do together; of one rank alone, nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Group:
    """The ranks of this run. This one is of a single rank, and moves nothing.

    Every method but :attr:`first` is a collective: all ranks call it, in the same order.

    Attributes:
        rank: this process's number, from 0.
        world: how many processes there are.
    """

    rank = 0
    world = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes results and speaks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in place; the same bits on all of them.

        Args:
            tensors: of one dtype and device, shaped alike on every rank.
        """

    def share(self, value: Any = None) -> Any:
        """The first rank's value, a JSON value; the others' own does not matter."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, a JSON value, by rank."""
        return [value]

    def send(self, data: bytes | None, source: int) -> bytes:
        """The bytes that the rank ``source`` has, on every rank; the others give None."""
        assert data is not None
        return data


_ALONE = Group()
_groups: list[Group] = [_ALONE]


def current() -> Group:
    """The group that this process works in."""
    return _groups[-1]


@contextmanager
def using(group: Group) -> Iterator[Group]:
    """Inside the ``with`` this process works in ``group``."""
    _groups.append(group)
    try:
        yield group
    finally:
        _groups.pop()


def alone() -> AbstractContextManager[Group]:
    """Inside ``with alone():`` this process works by itself, whatever the others do."""
    return using(_ALONE)


def first_before_others(do: Callable[[], T]) -> T:
    """What ``do`` gives on every rank: on the first one before it is begun on any other.

    For what is written into a folder that the ranks may share, and found there by the others.
    """
    group = current()
    if group.first:
        done = do()
        group.barrier()
    else:
        group.barrier()
        done = do()
    group.barrier()  # the first may take the folder away as soon as it goes on
    return done

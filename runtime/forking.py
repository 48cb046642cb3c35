"""Sessions in forked children: their threads are not there, and whatever waits for them hangs."""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections.abc import Iterable
from typing import Any

from mimiq.errors import BadInput


class Forkable:
    """Base of sessions, whose engines have threads that a forked child does not inherit.

    In a child an engine is kept for ever: freeing it, at the child's end too, would wait for its
    threads.
    """

    _forked = False
    _opened_by = "mimiq.open_bundle(path)"

    def __new__(cls, *_args: object, **_options: object) -> Any:
        made = super().__new__(cls)
        _OPEN.add(made)
        return made

    def _after_fork(self) -> None:
        """In the child, before anything else."""
        keep_for_ever(vars(self).values())
        self._forked = True

    def _require_here(self) -> None:
        """
        Raises:
            BadInput: the session was opened before this process was forked.
        """
        if self._forked:
            raise BadInput(
                "The session was opened before this process was forked, and its threads stayed in "
                "the parent.",
                f"Open it again in the child: {self._opened_by}.",
            )


def keep_for_ever(values: Iterable[object]) -> None:
    """Have Python never free these objects, not even when the process ends."""
    for value in values:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


@functools.cache
def end_children_at_once() -> None:
    """Have forked children end without the C libraries' exit handlers, as multiprocessing's do.

    ONNX Runtime starts a thread when it is imported (1.31), and its handler waits for it. Python's
    own handlers run, and its streams are flushed.
    """
    if not hasattr(os, "register_at_fork"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "on_exit"):  # glibc
        # The handlers run last registered first, and are given the status.
        os.register_at_fork(after_in_child=lambda: library.on_exit(library._exit, None))


_OPEN: weakref.WeakSet[Forkable] = weakref.WeakSet()


def _in_the_child() -> None:
    for session in list(_OPEN):
        session._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)

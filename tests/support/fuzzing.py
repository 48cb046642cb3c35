"""What fuzzing shares: damaged bytes, damaged JSON, and what a reader may answer."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mimiq.errors import MimiqError

COUNT = int(os.environ.get("MIMIQ_FUZZ", "30"))  # examples of each harness
LONGEST_S = 10  # that any input may take

# The temporary folder is shared by a test's examples, each of which writes all that it reads.
fuzzed = settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck))


def answers(read: Callable[[], object]) -> object:
    """What a reader gives; None where it refuses with a sentence and the next step.

    Anything else that it raises fails the test, and so does an answer after more than ten seconds,
    or a message that nobody can read.
    """
    started = time.monotonic()
    found, said = None, "an answer"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read()
        except MimiqError as error:
            said = str(error)
    assert 0 < len(said) < 50_000
    assert time.monotonic() - started < LONGEST_S
    return found


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """``content`` with a few edits: bytes changed, cut, doubled, moved in; or cut short."""
    place = st.integers(0, len(content))
    edit = st.one_of(
        st.tuples(st.just("set"), place, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("delete"), place, st.integers(1, 64)),
        st.tuples(st.just("double"), place, st.integers(1, 64)),
        st.tuples(st.just("cut"), place, st.just(0)),
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
    )
    return st.lists(edit, min_size=1, max_size=5).map(lambda edits: _edited(content, edits))


def _edited(content: bytes, edits: list[tuple[str, int, Any]]) -> bytes:
    data = bytearray(content)
    for kind, place, value in edits:
        place = min(place, len(data))
        match kind:
            case "set":
                data[place : place + len(value)] = value
            case "insert":
                data[place:place] = value
            case "delete":
                del data[place : place + value]
            case "double":
                data[place:place] = data[place : place + value]
            case "cut":
                del data[place:]
            case "flip" if place < len(data):
                data[place] ^= 1 << value
    return bytes(data)


_WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**400, "x" * 5000, "\x1b[2J", "../../etc", "", -1, 0, 2**63, [], {}]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def altered(value: Any) -> st.SearchStrategy[Any]:
    """A JSON value of which a few parts are others, gone, or new."""
    edit = st.tuples(st.lists(st.integers(0, 63), min_size=1, max_size=5), _WILD, st.booleans())
    return st.lists(edit, min_size=1, max_size=3).map(lambda edits: _altered(value, edits))


def _altered(value: Any, edits: list[tuple[list[int], Any, bool]]) -> Any:
    value = copy.deepcopy(value)
    for steps, new, removes in edits:
        place, key, parent = value, None, None
        for step in steps:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            parent, key = place, keys[step % len(keys)]
            place = parent[key]
            if not isinstance(place, dict | list):
                break
        if parent is None:
            continue
        if removes:
            del parent[key]
        else:
            parent[key] = new
    return value


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path

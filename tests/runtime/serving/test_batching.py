"""Requests that run together: each gets its own answer, whatever becomes of the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime.serving.batching import Batcher

Tensors = Mapping[str, npt.NDArray[Any]]


class Held:
    """A model that squares, and names its images; its first run ends when it is let go."""

    def __init__(self, fails: Callable[[npt.NDArray[Any]], bool] = lambda _: False) -> None:
        self.batches: list[int] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self._fails = fails

    def __call__(self, feeds: Tensors) -> Tensors:
        images = feeds["images"]
        self.batches.append(len(images))
        if not self.begun.is_set():
            self.begun.set()
            assert self.go.wait(20)
        if self._fails(images):
            raise BadInput("It failed.", "Send less.")
        return {"squares": images**2, "names": np.asarray([str(int(n)) for n in images[:, 0]], "O")}


def image(*numbers: float) -> dict[str, npt.NDArray[Any]]:
    return {"images": np.asarray(numbers, np.float32)[:, None]}


def asked(batcher: Batcher, model: Held, *requests: dict[str, npt.NDArray[Any]]) -> list[Any]:
    """Futures of requests that wait together, behind a first one that is under way."""
    first = batcher.submit(image(0))
    assert model.begun.wait(20)
    futures = [batcher.submit(request) for request in requests]
    model.go.set()
    assert first.result(20)["names"].tolist() == ["0"]
    return futures


def test_what_waits_runs_together_and_each_gets_its_own() -> None:
    model = Held()
    batcher = Batcher(model, max_images=8)
    futures = asked(batcher, model, image(1), image(2, 3), image(4))
    answers = [future.result(20) for future in futures]
    batcher.close()
    assert model.batches == [1, 4]
    assert [answer["names"].tolist() for answer in answers] == [["1"], ["2", "3"], ["4"]]
    assert [answer["squares"].ravel().tolist() for answer in answers] == [[1], [4, 9], [16]]


@pytest.mark.parametrize(
    ("most", "batches"), [(1, [1, 1, 2, 1, 9]), (3, [1, 3, 1, 9]), (4, [1, 4, 9])]
)
def test_a_run_is_no_larger_than_wanted_but_for_one_request(most: int, batches: list[int]) -> None:
    model = Held()
    batcher = Batcher(model, max_images=most)
    futures = asked(batcher, model, image(1), image(2, 3), image(4), image(*range(9)))
    assert [len(future.result(20)["names"]) for future in futures] == [1, 2, 1, 9]
    batcher.close()
    assert model.batches == batches


def test_one_that_fails_fails_alone() -> None:
    model = Held(fails=lambda images: bool((images == 2).any()))
    batcher = Batcher(model, max_images=8)
    right, wrong, other = asked(batcher, model, image(1), image(2), image(3))
    assert right.result(20)["names"].tolist() == ["1"]
    assert other.result(20)["names"].tolist() == ["3"]
    with pytest.raises(BadInput, match="It failed"):
        wrong.result(20)
    batcher.close()


def test_what_is_too_large_together_runs_apart() -> None:
    model = Held(fails=lambda images: len(images) > 1)
    batcher = Batcher(model, max_images=8)
    futures = asked(batcher, model, image(1), image(2))
    assert [future.result(20)["names"].tolist() for future in futures] == [["1"], ["2"]]
    batcher.close()


def test_one_that_is_given_up_leaves_the_others_their_answers() -> None:
    model = Held()
    batcher = Batcher(model, max_images=8)
    first = batcher.submit(image(0))
    assert model.begun.wait(20)
    gone, stays = batcher.submit(image(1)), batcher.submit(image(2))
    assert gone.cancel()
    assert not first.cancel()  # it runs already
    model.go.set()
    assert stays.result(20)["names"].tolist() == ["2"]
    batcher.close()
    assert model.batches == [1, 1]


def test_all_given_up_is_no_end() -> None:
    model = Held()
    batcher = Batcher(model, max_images=8)
    batcher.submit(image(0))
    assert model.begun.wait(20)
    assert batcher.submit(image(1)).cancel()
    model.go.set()
    batcher_still = threading.Thread(target=batcher.close)
    batcher_still.start()
    batcher_still.join(20)
    assert not batcher_still.is_alive()


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    model = Held()
    batcher = Batcher(model, max_images=1)
    futures = asked(batcher, model, image(1), image(2))
    batcher.close()
    assert [future.result(0)["names"].tolist() for future in futures] == [["1"], ["2"]]
    with pytest.raises(EnvironmentLacks, match="unloaded"):
        batcher.submit(image(3))


def test_lanes_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=20)

    def run(feeds: Tensors) -> Tensors:
        both.wait()
        return feeds

    batcher = Batcher(run, lanes=2, max_images=1)
    futures = [batcher.submit(image(1)), batcher.submit(image(2))]
    assert [future.result(20)["images"].tolist() for future in futures] == [[[1]], [[2]]]
    batcher.close()


@pytest.mark.parametrize("lanes", [1, 3])
def test_no_answer_is_crossed_among_many_threads(lanes: int) -> None:
    model = Held()
    model.begun.set()
    batcher = Batcher(model, lanes=lanes, max_images=16)

    def client(number: int) -> None:
        for request in range(200):
            mine = 1000.0 * number + request
            answer = batcher.submit(image(mine, -mine)).result(20)
            assert answer["names"].tolist() == [str(int(mine)), str(int(-mine))]

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(client, range(12)))
    batcher.close()
    assert sum(model.batches) == 2 * 12 * 200
    assert max(model.batches) <= 16

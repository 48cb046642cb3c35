"""Device timing, on the fakes: what is enqueued between the events, and what is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorrt_fake import open_fake

from mimiq.errors import BadInput
from mimiq.runtime.tensorrt.timing import device_runner


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("graphs", [False, True])
def test_device_runner(tmp_path: Path, copies: bool, graphs: bool) -> None:
    session, engine, cuda = open_fake(tmp_path, cuda_graphs=False)
    with session:
        run = device_runner(session, copies=copies, cuda_graphs=graphs)
        seconds = run(2, 7)
        assert len(seconds) == 7
        assert all(value == pytest.approx(0.001) for value in seconds)  # the fake clock's tick
        assert cuda.counts["to_device"] == 1 + 7 * copies
        assert cuda.counts["to_host"] == 7 * copies
        assert cuda.counts["capture"] == graphs
        assert engine.runs == (2 if graphs else 9)
        with session.lane() as lane:
            assert lane.graphs is False  # as the session was opened
    assert cuda.open_handles == 0
    assert not cuda.buffers


@pytest.mark.parametrize("batch", [1, 9])
def test_batches_outside_of_the_profile(tmp_path: Path, batch: int) -> None:
    session, _, _ = open_fake(tmp_path, batches=(2, 2, 8))
    with session, pytest.raises(BadInput, match="batches of 2 to 8"):
        device_runner(session)(batch, 1)

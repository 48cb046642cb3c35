"""Time on the GPU itself, by CUDA events, as runners for :mod:`mimiq.runtime.latency.measure`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from mimiq.errors import BadInput
from mimiq.runtime.latency.measure import Runner
from mimiq.runtime.tensorrt.session import TensorRTSession


def device_runner(
    session: TensorRTSession, *, copies: bool = False, cuda_graphs: bool = True
) -> Runner:
    """Time a session's inferences on the GPU.

    The runs follow one another without a pause, so that a gap between kernels counts and the time
    that Python takes to ask for the next does not, as long as the GPU is kept busy.

    Args:
        session: open; one of its lanes is used while a burst lasts.
        copies: count the copies from and to page-locked host memory as well.
        cuda_graphs: replay the batch as a graph, or launch its kernels one by one.

    Returns:
        ``(batch, runs)`` → seconds of each run. It raises BadInput for a batch outside of the
        engine's profile.
    """

    def run(batch: int, runs: int) -> Sequence[float]:
        low, high = session.tensors.smallest, session.tensors.largest
        if not low <= batch <= high:
            raise BadInput(
                f"The engine takes batches of {low} to {high}, not {batch}.",
                "Measure other batches, or build with another profile.",
            )
        with session.lane() as lane, ExitStack() as stack:
            cuda = session.cuda
            graphs, lane.graphs = lane.graphs, cuda_graphs
            stack.callback(setattr, lane, "graphs", graphs)
            events = [
                (cuda.create_event(timing=True), cuda.create_event(timing=True))
                for _ in range(runs)
            ]
            for pair in events:
                for event in pair:
                    stack.callback(cuda.destroy_event, event)
            lane.stage(np.random.default_rng(batch), batch)
            for _ in range(2):  # compile and capture outside of the clock
                lane.enqueue(batch, lane.input, lane.output)
            for start, end in events:
                cuda.record(start, lane.stream)
                if copies:
                    lane.copy_in(batch)
                lane.enqueue(batch, lane.input, lane.output)
                if copies:
                    lane.copy_out(batch)
                cuda.record(end, lane.stream)
            cuda.synchronize(lane.stream)
            return [cuda.elapsed_ms(start, end) / 1000 for start, end in events]

    return run

"""One session, run by eight threads at a time: the same bits as alone, and no memory kept.

MIMIQ_RUNS=2500 pytest -n 0 --nightly tests/nightly/test_threads.py
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from compiled import CHEAP, Compile
from figures import record, resident_bytes

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc"),
]

RUNS = int(os.environ.get("MIMIQ_RUNS", "2500"))  # of each thread
THREADS = 8


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_eight_threads_share_a_session(compile_digits: Compile, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    from mimiq.models.digits import digits_heldout
    from mimiq.runtime import Bundle, open_bundle

    bundle = Bundle(compile_digits("--int8", *CHEAP).path)
    images = bundle.preprocessing.normalize(digits_heldout()[0])
    batches = [images[first : first + 1 + first % 4] for first in range(0, len(images), 5)]
    memory: list[int] = []
    tenth = threading.Barrier(THREADS, action=lambda: memory.append(resident_bytes()))

    def runs(thread: int) -> int:
        generator = np.random.default_rng(thread)
        different = 0
        for number in range(RUNS):
            if number % max(1, RUNS // 10) == 0:
                tenth.wait(600)
            place = int(generator.integers(len(batches)))
            different += not np.array_equal(session.run(batches[place]), alone[place])
        tenth.wait(600)
        return different

    with open_bundle(bundle, backend, threads=1) as session:
        alone = [session.run(batch) for batch in batches]
        with ThreadPoolExecutor(THREADS) as pool:
            different = sum(pool.map(runs, range(THREADS)))
    mebibytes = [round(count / 2**20, 1) for count in memory]
    record(
        f"threads_{backend}",
        f"MIMIQ_RUNS={RUNS} pytest -n 0 --nightly tests/nightly/test_threads.py",
        {
            "threads": THREADS,
            "runs": THREADS * RUNS,
            "different": different,
            "resident_MiB_each_tenth": mebibytes,
        },
    )
    assert different == 0
    # The first tenth warms up: each thread gets an arena of its own.
    assert max(mebibytes[2:]) - mebibytes[1] < 4

"""Ctrl-C and SIGTERM at many even delays over a cheap command, imports and all."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from delayed_signals import fault, run
from runtime_models import manifest_entries, write_linear_classifier

from mimiq.runtime.bundle_writing import write_bundle

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
]
COUNT = int(os.environ.get("MIMIQ_SIGNALS", "150"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_many_delays(number: signal.Signals, tmp_path: Path) -> None:
    model = write_linear_classifier(tmp_path / "linear.onnx", quantized=True)
    entries = manifest_entries()
    path = write_bundle(tmp_path / "linear.mimiq", {"model.onnx": model}, entries).path
    words = ["inspect", path, "--json"]
    whole = run(words)
    assert whole.code == 0
    assert whole.out
    faults = []
    for step in range(COUNT):
        delay = whole.seconds * step / COUNT
        faults.append(fault(whole, number, delay, run(words, number, delay)))
    assert not any(faults), "\n".join(filter(None, faults))

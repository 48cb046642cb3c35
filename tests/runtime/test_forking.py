"""Sessions in forked children: run, closed, or left to the child's end, nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runtime_models import MakeBundle

from mimiq.export.triton import pack
from mimiq.runtime.bundle import Bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

# Children end by sys.exit, as a server's do: multiprocessing's own skip what would hang.
PROGRAM = """
import os, sys
import numpy as np
from mimiq.errors import BadInput
from mimiq.runtime import open_bundle

path, backend, threads, packed, *deeds = sys.argv[1:]
session = open_bundle(path, backend, threads=int(threads))
images = np.zeros((2, *session.input_shape), np.float32)
wanted = session.run(images)
for deed in deeds:
    child = os.fork()
    if child == 0:
        if "run" in deed:
            try:
                said = "the same" if np.allclose(session.run(images), wanted) else "another"
            except BadInput as error:
                said = error.problem
            print(deed, "gives", said, flush=True)
        if "close" in deed:
            session.close()
        sys.exit(5)
    _, status = os.waitpid(child, 0)
    print(deed, os.waitstatus_to_exitcode(status), flush=True)
print(np.allclose(session.run(images), wanted))

if packed != "none":
    from mimiq.runtime.serving.packed import PackedModel

    model = PackedModel(packed, device="cpu", threads=int(threads))
    feeds = {"images": images}
    child = os.fork()
    if child == 0:
        try:
            model.run(feeds)
        except BadInput as error:
            print(error.problem, error.next_step, flush=True)
        model.close()
        with PackedModel(packed, device="cpu", threads=int(threads)) as own:
            print(np.allclose(own.run(feeds)["logits"], wanted), flush=True)
        sys.exit(5)
    print("packed", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(np.allclose(model.run(feeds)["logits"], wanted))
"""
DEEDS = ("nothing", "close", "run", "run, close")


def _deeds(bundle: Bundle, backend: str, threads: int, packed: Path | None = None) -> list[str]:
    options = [str(bundle.path), backend, str(threads), str(packed or "none"), *DEEDS]
    command = [sys.executable, "-c", PROGRAM, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def test_onnx_runtime_runs_on_in_the_child(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    packed = pack(bundle, tmp_path / "models", "net").folder
    *first, refused, own, ended, after = _deeds(bundle, "ort", 2, packed)
    assert first == [
        *("nothing 5", "close 5", "run gives the same", "run 5"),
        *("run, close gives the same", "run, close 5", "True"),
    ]
    # A packed model is a server's, which forks before it loads: it only says so, and never hangs.
    assert "before this process was forked" in refused
    assert "PackedModel(folder)" in refused
    assert (own, ended, after) == ("True", "packed 5", "True")


def test_openvino_says_that_its_threads_are_elsewhere(make_bundle: MakeBundle) -> None:
    pytest.importorskip("openvino")
    said = _deeds(make_bundle(), "openvino", 1)
    assert [line for line in said if "gives" not in line] == [
        *("nothing 5", "close 5", "run 5", "run, close 5", "True")
    ]
    assert all("before this process was forked" in line for line in said if "gives" in line)

"""What an inference host pays: no training libraries, and a quick first answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runtime_models import SIZE, MakeBundle

import mimiq.runtime

HEAVY = ("torch", "timm", "onnx", "onnx_ir", "onnxscript", "tensorrt", "tensorrt_rtx", "matplotlib")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_import_is_light() -> None:
    code = f"""
import sys, mimiq.runtime
print([name for name in {(*HEAVY, "onnxruntime", "numpy", "PIL", "rich")!r} if name in sys.modules])
"""
    assert run_python(code).stdout.strip() == "[]"


def test_a_bundle_runs_without_the_libraries_of_training(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """Imports of them are made to fail, as on a host without them."""
    bundle = make_bundle()
    code = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
import numpy as np, mimiq.runtime
from mimiq.runtime import (InMemoryImages, Bundle, build_report, classify, evaluate, render)
with mimiq.runtime.open_bundle({str(bundle.path)!r}) as session:
    logits = session.run(np.zeros((2, 3, {SIZE}, {SIZE}), np.float32))
    bundle = Bundle({str(bundle.path)!r})
    images = InMemoryImages(np.zeros((4, {SIZE}, {SIZE}, 3), np.uint8), np.zeros(4, int), 10)
    print(logits.shape, evaluate(session, images, bundle.preprocessing).count)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 10) 4"
    assert done.stderr == ""


def test_first_inference_is_quick(make_bundle: MakeBundle) -> None:
    """At most 1.5 s of processor time, which other work moves less than a clock; best of 3."""
    bundle = make_bundle()
    code = f"""
import time, numpy as np, mimiq.runtime
with mimiq.runtime.open_bundle({str(bundle.path)!r}) as session:
    session.run(np.zeros((1, {SIZE}, {SIZE}, 3), np.uint8))
print(time.process_time())
"""
    tries = [run_python(code) for _ in range(3)]
    assert [done.returncode for done in tries] == [0, 0, 0], tries[0].stderr
    assert min(float(done.stdout) for done in tries) < 1.5


def test_every_public_name_exists() -> None:
    for name in mimiq.runtime.__all__:
        assert getattr(mimiq.runtime, name).__module__.startswith("mimiq.runtime.")
    assert set(mimiq.runtime.__all__) == set(dir(mimiq.runtime))
    assert not hasattr(mimiq.runtime, "no_such_name")

"""The wheel without extras opens and runs a bundle, without torch, timm and onnx."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from compiled import INT8, Compile
from wheels import PIP_S, ROOT, built_wheel

_ABSENT = ("torch", "timm", "onnx", "onnx_ir", "onnxscript", "tritonclient", "mlserver")
_FIRST_ANSWER_S = 1.5  # of processor time, the start of Python and the imports included

_PROGRAM = """
import time
start = time.perf_counter()
import mimiq.runtime
bundle = mimiq.runtime.Bundle({bundle!r})
session = mimiq.runtime.open_bundle(bundle)
import numpy
pixels = numpy.zeros((1, *[bundle.preprocessing.image_size] * 2, 3), numpy.uint8)
logits = session.run(pixels)
seconds = time.perf_counter() - start
import importlib.util, json, sys
absent = {absent!r}
print(json.dumps({{
    "seconds": seconds,
    "processor": time.process_time(),
    "logits": logits.tolist(),
    "found": [name for name in absent if importlib.util.find_spec(name)],
    "loaded": [name for name in absent if name in sys.modules],
    "where": mimiq.runtime.__file__,
}}))
"""


def _run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=PIP_S,
        check=False,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Python of a fresh environment that holds the built wheel and what it requires."""
    folder = tmp_path_factory.mktemp("slim")
    wheel = built_wheel(folder)
    venv.create(folder / "environment", with_pip=False)
    python = folder / "environment" / ("Scripts" if os.name == "nt" else "bin") / "python"
    # The pip at hand: none of its own, and only what is imported becomes byte code.
    pip = (sys.executable, "-m", "pip", "--python", python)
    installed = _run(*pip, "install", "--quiet", "--no-compile", wheel)
    if installed.returncode:
        pytest.skip(f"pip cannot install here: {installed.stderr.strip()[-300:]}")
    yield python
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_bundle_runs_on_a_host_without_the_compiler(
    slim: Path, compile_digits: Compile, tmp_path: Path
) -> None:
    from mimiq.runtime import Bundle, open_bundle

    path = compile_digits(*INT8).path
    program = _PROGRAM.format(bundle=str(path), absent=_ABSENT)
    # Isolated, and elsewhere: the checkout must not be what is imported.
    answer = _run(slim, "-I", "-c", program, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout.splitlines()[-1])
    assert result["found"] == []
    assert result["loaded"] == []
    assert str(ROOT) not in result["where"]
    with open_bundle(Bundle(path), "ort") as session:  # the one backend of the other environment
        import numpy as np

        size = session.input_shape[-1]
        expected = session.run(np.zeros((1, size, size, 3), np.uint8))
    np.testing.assert_allclose(result["logits"], expected, atol=1e-4)
    # The first run wrote the byte code; other work on the host moves a clock, not this time.
    again = [_run(slim, "-I", "-c", program, cwd=tmp_path) for _ in range(3)]
    found = [json.loads(done.stdout.splitlines()[-1]) for done in again]
    for key in ("seconds", "processor"):
        print(f"import to first inference: {min(each[key] for each in found):.2f} s ({key})")
    assert min(each["processor"] for each in found) < _FIRST_ANSWER_S


@pytest.mark.slow
def test_the_command_line_names_the_missing_extra(slim: Path, tmp_path: Path) -> None:
    command = slim.with_name("mimiq")
    answer = _run(command, "--help", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    answer = _run(command, "synthesize", "digits", "-o", tmp_path / "images", cwd=tmp_path)
    assert answer.returncode == 6
    assert "mimiq-vit[compile]" in answer.stderr
    assert "Traceback" not in answer.stderr
    lines = "import mimiq; print(sorted(dir(mimiq))); mimiq.compile('digits')"
    answer = _run(slim, "-I", "-c", lines, cwd=tmp_path)
    assert "'compile'" in answer.stdout
    assert "Compiling needs libraries that are not installed: torch" in answer.stderr
    assert "mimiq-vit[compile]" in answer.stderr

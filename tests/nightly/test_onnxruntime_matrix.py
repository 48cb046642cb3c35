"""Every form of a bundle under every minor version of ONNX Runtime, with VNNI and without.

Each is run as ``open_bundle`` opens it, which on a CPU is ``model.cpu.onnx``; and its
``model.onnx`` without mimiq, by the library's own defaults, as anybody may run a standard graph.

pytest -n 0 --nightly tests/nightly/test_onnxruntime_matrix.py
MIMIQ_MINORS=31,32 MIMIQ_PROCESSORS=host …  # a part of it

Installs each version from the package index into a folder of its own, one at a time. A CPU without
VNNI is QEMU's Haswell, where ``qemu-x86_64`` is installed: ONNX Runtime asks the processor itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compiled import Compile
from figures import record

pytestmark = pytest.mark.nightly

PROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
FLOOR = min(int(minor) for minor in re.findall(r'"onnxruntime(?:-gpu)?>=1\.(\d+);', PROJECT))
CHEAP = ("--recipe", "fast", "--images", "24", "--steps", "0", "--no-bench", "--target", "ort")
ONLY = os.environ.get("MIMIQ_MINORS")
FORMS = {
    "w8a8": ("--int8",),
    "w4a8": ("--int4",),
    "weight-only": ("--int4", "--weight-only"),
    "w4a4": ("--bits", "w4a4"),
}
IMAGES = 64
WAYS = ("mimiq", "model.onnx alone")  # as PROGRAM prints them
# Under an emulated processor the library is asked what that one has; mimiq reads the host's.
PROGRAM = f"""
import json, sys
import onnxruntime
from mimiq.models.digits import digits_heldout
import mimiq.runtime.onnxruntime.graph as graph
from mimiq.runtime import Bundle, open_bundle

bundle, without_vnni = Bundle(sys.argv[1]), sys.argv[2] == "haswell"
if without_vnni:
    graph.instruction_sets = lambda: ["avx2"]
    assert graph.integer_kernels().saturates
images = digits_heldout()[0][:{IMAGES}]
print("version:", json.dumps(onnxruntime.__version__))
with open_bundle(bundle, "ort", threads=1) as session:
    print("mimiq:", json.dumps(session.run(images).argmax(1).tolist()), flush=True)

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
path, providers = str(bundle.file("model.onnx")), ["CPUExecutionProvider"]
session = onnxruntime.InferenceSession(path, options, providers=providers)
pixels = {{session.get_inputs()[0].name: bundle.preprocessing.normalize(images)}}
print("model.onnx alone:", json.dumps(session.run(None, pixels)[0].argmax(1).tolist()))
"""


@pytest.fixture(scope="module")
def bundles(compile_digits: Compile) -> dict[str, Path]:
    return {form: compile_digits(*flags, *CHEAP).path for form, flags in FORMS.items()}


@pytest.fixture(scope="module")
def wanted(bundles: dict[str, Path]) -> dict[str, list[int]]:
    """The classes that mimiq gives here, with the library that is installed."""
    found = {form: asked(None, path, "host") for form, path in bundles.items()}
    assert not any(answer.failed for answer in found.values()), found
    return {form: answer.classes["mimiq"] for form, answer in found.items()}


class Answers:
    """What PROGRAM printed: the library's version, and by way the classes of the images.

    Attributes:
        failed: with what the process ended, and its last words; empty where it did all.
    """

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        found = dict(re.findall(r"^(version|mimiq|model\.onnx alone): (.*)$", done.stdout, re.M))
        self.version = json.loads(found.pop("version", "null"))
        self.classes: dict[str, list[int]] = {way: json.loads(text) for way, text in found.items()}
        lines = [line for line in done.stderr.splitlines() if not line.startswith("qemu")]
        self.failed = f"exit {done.returncode}: {''.join(lines[-1:])[:300]}"
        if done.returncode == 0 and len(self.classes) == len(WAYS):
            self.failed = ""

    def __repr__(self) -> str:
        return self.failed or f"{self.version}: {self.classes}"


def minors() -> list[str]:
    """The newest release of each minor version from the floor on."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", "onnxruntime"],
        capture_output=True,
        text=True,
    )
    found = re.search(r"Available versions: (.*)", done.stdout)
    if found is None:
        pytest.skip("no package index can be asked")
    newest: dict[int, str] = {}
    for version in found[1].split(", "):
        major, minor, _ = map(int, version.split("."))
        if major == 1 and minor >= FLOOR and (not ONLY or str(minor) in ONLY.split(",")):
            newest.setdefault(minor, version)
    return [newest[minor] for minor in sorted(newest)]


def asked(library: Path | None, bundle: Path, processor: str) -> Answers:
    """What a bundle answers under a library in a folder; None is the installed one."""
    emulator = ["qemu-x86_64", "-cpu", "Haswell"] if processor == "haswell" else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if library is not None:
        environment["PYTHONPATH"] = str(library)
    done = subprocess.run(
        [*emulator, sys.executable, "-c", PROGRAM, str(bundle), processor],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    return Answers(done)


def compared(classes: list[int], wanted: list[int]) -> str:
    same = sum(one == other for one, other in zip(classes, wanted, strict=True))
    return f"{same} of {len(wanted)} the same"


def right(same: int) -> set[str]:
    """What may be said where at least so many are the same."""
    return {f"{count} of {IMAGES} the same" for count in range(same, IMAGES + 1)}


# Sums in another order tip single roundings: one image may be so near the border.
RIGHT = right(IMAGES - 1)
# Without VNNI the library's quick kernel saturates with 8-bit weights, and only mimiq has it take
# the exact one: 63 are the same under 1.32.
SATURATING, RIGHT_SATURATED = f"w8a8, haswell, {WAYS[1]}", right(IMAGES - 4)


def test_every_form_under_every_version(
    bundles: dict[str, Path], wanted: dict[str, list[int]], tmp_path: Path
) -> None:
    wished = os.environ.get("MIMIQ_PROCESSORS", "host,haswell").split(",")
    able = {"host": True, "haswell": shutil.which("qemu-x86_64") is not None}
    processors = [processor for processor in wished if able[processor]]
    table: dict[str, dict[str, str]] = {}
    for version in minors():
        library = tmp_path / version
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        done = subprocess.run([*install, str(library), f"onnxruntime=={version}"])
        if done.returncode:
            table[version] = {"installed": "no"}
            continue
        row = table[version] = {}
        for form, path in bundles.items():
            for processor in processors:
                answers = asked(library, path, processor)
                assert answers.version in (version, None)
                for way in WAYS:
                    classes = answers.classes.get(way)
                    said = compared(classes, wanted[form]) if classes else answers.failed
                    row[f"{form}, {processor}, {way}"] = said
        shutil.rmtree(library)
        print(version, json.dumps(row), flush=True)
    record(
        "onnxruntime",
        "pytest -n 0 --nightly tests/nightly/test_onnxruntime_matrix.py",
        {
            "processors": processors,
            "installed_for_reference": _installed(),
            "versions": table,
        },
    )
    wrong = {
        (version, case): text
        for version, row in table.items()
        for case, text in row.items()
        if text not in (RIGHT_SATURATED if case == SATURATING else RIGHT | {"no"})
    }
    assert not wrong, wrong


def _installed() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


@pytest.mark.parametrize("form", FORMS)
def test_openvino_runs_the_standard_graph_without_mimiq(
    bundles: dict[str, Path], wanted: dict[str, list[int]], form: str
) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    from mimiq.models.digits import digits_heldout
    from mimiq.runtime import Bundle

    bundle = Bundle(bundles[form])
    images = bundle.preprocessing.normalize(digits_heldout()[0][:IMAGES])
    (logits,) = openvino.compile_model(bundle.file("model.onnx"), "CPU")([images]).values()
    said = compared(logits.argmax(1).tolist(), wanted[form])
    print(f"OpenVINO {openvino.__version__}, {form}: {said}")
    assert said in RIGHT

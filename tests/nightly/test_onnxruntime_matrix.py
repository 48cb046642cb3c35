"""Every form of a bundle under every minor version of ONNX Runtime, with VNNI and without.

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
from typing import Any

import pytest
from compiled import Compile
from figures import record

pytestmark = pytest.mark.nightly

FLOOR = 23  # of pyproject.toml, which a test holds to it
CHEAP = ("--recipe", "fast", "--images", "24", "--steps", "0", "--no-bench", "--target", "ort")
ONLY = os.environ.get("MIMIQ_MINORS")
FORMS = {
    "w8a8": ("--int8",),
    "w4a8": ("--int4",),
    "weight-only": ("--int4", "--weight-only"),
    "w4a4": ("--bits", "w4a4"),
}
# Under an emulated processor the library is asked what that one has; mimiq reads the host's.
PROGRAM = """
import json, sys
import numpy as np
import onnxruntime
from mimiq.models.digits import digits_heldout
import mimiq.runtime.onnxruntime.graph as graph
from mimiq.runtime import Bundle, open_bundle

path, without_vnni = sys.argv[1], sys.argv[2] == "haswell"
if without_vnni:
    graph.instruction_sets = lambda: ["avx2"]
    assert graph.integer_kernels().saturates
images, labels = digits_heldout()
images, labels = images[:64], labels[:64]
with open_bundle(Bundle(path), "ort", threads=1) as session:
    logits = session.run(images)
print("answer", json.dumps({
    "version": onnxruntime.__version__,
    "classes": logits.argmax(1).tolist(),
    "top1": float((logits.argmax(1) == labels).mean()),
}))
"""


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


def asked(library: Path | None, bundle: Path, processor: str) -> dict[str, Any]:
    """What a bundle answers; ``failed`` and why, where it does not."""
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
    found = re.search(r"^answer (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        last = [line for line in done.stderr.splitlines() if not line.startswith("qemu")][-1:]
        return {"failed": done.returncode, "why": " ".join(last)[:300]}
    answer: dict[str, Any] = json.loads(found[1])
    return answer


def test_the_floor_is_the_declared_one() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert set(re.findall(r'"onnxruntime(?:-gpu)?>=1\.(\d+);', text)) == {str(FLOOR)}


def test_every_form_under_every_version(compile_digits: Compile, tmp_path: Path) -> None:
    wished = os.environ.get("MIMIQ_PROCESSORS", "host,haswell").split(",")
    able = {"host": True, "haswell": shutil.which("qemu-x86_64") is not None}
    processors = [processor for processor in wished if able[processor]]
    bundles = {form: compile_digits(*flags, *CHEAP).path for form, flags in FORMS.items()}
    wanted = {form: asked(None, path, "host") for form, path in bundles.items()}
    assert not any("failed" in answer for answer in wanted.values()), wanted
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
                answer = asked(library, path, processor)
                if "failed" in answer:
                    row[f"{form}, {processor}"] = f"exit {answer['failed']}: {answer['why']}"
                    continue
                assert answer["version"] == version
                pairs = zip(answer["classes"], wanted[form]["classes"], strict=True)
                same = sum(one == other for one, other in pairs)
                row[f"{form}, {processor}"] = f"{same} of {len(answer['classes'])} the same"
        shutil.rmtree(library)
        print(version, json.dumps(row), flush=True)
    record(
        "onnxruntime",
        "pytest -n 0 --nightly tests/nightly/test_onnxruntime_matrix.py",
        {
            "processors": processors,
            "installed_for_reference": wanted["w8a8"]["version"],
            "versions": table,
        },
    )
    wrong = {
        (version, case): text
        for version, row in table.items()
        for case, text in row.items()
        if text not in ("64 of 64 the same", "63 of 64 the same", "no")
    }
    assert not wrong, wrong

"""Mutated bundles, checkpoints, images, listings and sets, each through a command in a process.

MIMIQ_MUTATIONS=2000 pytest -n 0 --nightly tests/nightly/test_mutated_inputs.py

No traceback, no internal error, no raw control character, no hang, no bundle accepted whose files
are not those that were compiled, and nothing changed outside the folder that the run is given.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from compiled import Compile
from figures import record
from outside import state, watch

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs each command in a forked child"),
]

COUNT = int(os.environ.get("MIMIQ_MUTATIONS", "2000"))
CHEAP = (
    *("--int8", "--recipe", "fast", "--images", "24", "--steps", "0"),
    *("--no-bench", "--target", "ort"),
)
OUTSIDE = "changed outside its folder: "
LONGEST_CPU_S, LONGEST_S = 10, 90  # a hang spins, or it waits


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: of input.
        words: the command that is given it.
        changed: whether it is a bundle that must not be accepted.
    """

    kind: str
    words: list[object]
    changed: bool = False


def edited(content: bytes, generator: random.Random) -> bytes:
    """A few bytes changed, cut, doubled or put in."""
    data = bytearray(content)
    for _ in range(generator.choice([1, 1, 1, 2, 5, 20])):
        place = generator.randrange(len(data) + 1)
        match generator.randrange(6):
            case 0 if place < len(data):
                data[place] ^= 1 << generator.randrange(8)
            case 1:
                data[place : place + 4] = generator.randbytes(4)
            case 2:
                del data[place : place + generator.choice([1, 7, 1000])]
            case 3:
                data[place:place] = data[place : place + generator.choice([1, 16, 500])]
            case 4:
                data[place:place] = generator.choice(
                    [b"\x00", b"\xff" * 8, b"\x1b[2J", b"9" * 400, b'"', b"\n", b"{[" * 50]
                )
            case _ if generator.random() < 0.3:
                del data[place:]
    return bytes(data)


_WILD: list[Any] = [
    *(None, True, -1, 0, 10**30, 1.5, float("1e308"), "", "x" * 100_000, "\x1b]0;x\x07\x9b2J"),
    *([], {}, [[]], {"a": {}}, "../../etc/passwd", "int3", [3, 32, 32], "batch", 2**31),
]


def rewritten(value: Any, generator: random.Random) -> Any:
    """A JSON value of which one part is another, or gone."""
    value = json.loads(json.dumps(value))
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return value
        key = generator.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and generator.random() < 0.8:
            place = place[key]
        elif generator.random() < 0.2:
            del place[key]
            return value
        else:
            place[key] = generator.choice(_WILD)
            return value


class Inputs:
    """Makes cases in a folder, from whole originals."""

    def __init__(self, folder: Path, bundle: Path, seed: int) -> None:
        from mimiq.calibrate import gaussian_noise
        from mimiq.models.digits import FOLDER, WEIGHTS_FILE, digits_heldout
        from mimiq.runtime.bundle import Bundle

        self.folder, self.bundle, self.generator = folder, bundle, random.Random(seed)
        self.manifest = dict(Bundle(bundle).manifest)
        self.weights = self._checkpoints(FOLDER / WEIGHTS_FILE)
        self.pixels = digits_heldout()[0]
        self.preprocessing = Bundle(bundle).preprocessing
        gaussian_noise(self.preprocessing, 8, 0, folder / "set")
        self.pictures = self._pictures()

    def _checkpoints(self, file: Path) -> dict[str, bytes]:
        import torch
        from safetensors.torch import load_file

        torch.save(load_file(file), self.folder / "whole.pth")
        return {
            ".safetensors": file.read_bytes(),
            ".pth": (self.folder / "whole.pth").read_bytes(),
        }

    def _pictures(self) -> dict[str, bytes]:
        import io

        from PIL import Image

        found = {}
        for suffix, form in (
            *(("png", "PNG"), ("jpg", "JPEG"), ("bmp", "BMP"), ("gif", "GIF"), ("webp", "WEBP")),
            *(("tif", "TIFF"), ("ppm", "PPM")),
        ):
            buffer = io.BytesIO()
            Image.fromarray(self.pixels[0]).save(buffer, form)
            found[suffix] = buffer.getvalue()
        return found

    def next(self) -> Case:
        kinds: list[Callable[[], Case]] = [
            *[self.damaged_bundle] * 5,
            *[self.resigned_bundle] * 5,
            *[self.checkpoint] * 4,
            *[self.image] * 3,
            *[self.listing] * 2,
            *[self.graph] * 2,
            *[self.calibration_set] * 2,
            self.packed,
        ]
        return self.generator.choice(kinds)()

    def _copy(self) -> Path:
        place = self.folder / "changed.mimiq"
        shutil.rmtree(place, ignore_errors=True)
        return Path(shutil.copytree(self.bundle, place))

    def _command(self, bundle: Path) -> list[object]:
        page = self.folder / "page.html"
        return self.generator.choice(
            [
                ["inspect", bundle],
                ["inspect", bundle, "--json"],
                ["compare", bundle, self.bundle, "--json"],
                ["eval", bundle],
                ["eval", bundle, "--json"],
                ["report", bundle, "-o", page, "--force"],
                ["pack", bundle, "--triton", self.folder / "models", "--name", "net"],
                ["check", "--url", "127.0.0.1:1", "--model", "net", "--bundle", bundle],
                ["build", bundle],
                ["bench", bundle, "--batches", "1", "--threads", "1"],
            ]
            if self.generator.random() < 0.1
            else [
                ["inspect", bundle],
                ["compare", bundle, self.bundle],
                ["eval", bundle],
                ["report", bundle, "-o", page, "--force"],
                ["pack", bundle, "--triton", self.folder / "models", "--name", "net"],
            ]
        )

    def damaged_bundle(self) -> Case:
        """A file is not what the manifest says, or the manifest not what it was signed as."""
        bundle = self._copy()
        name = self.generator.choice(["manifest.json", *self.manifest["files"]])
        before = (bundle / name).read_bytes()
        (bundle / name).write_bytes(edited(before, self.generator))
        changed = (bundle / name).read_bytes() != before
        if changed and name == "manifest.json":
            try:  # other blanks are no change
                changed = json.loads((bundle / name).read_bytes()) != self.manifest
            except ValueError:
                changed = True
        return Case("damaged bundle", self._command(bundle), changed)

    def resigned_bundle(self) -> Case:
        """Anything may stand in it, and it is signed: to be refused or used, not to fail."""
        from mimiq.files import FileEntry
        from mimiq.runtime.manifest import manifest_digest

        bundle = self._copy()
        manifest = self.manifest
        if self.generator.random() < 0.5:
            manifest = rewritten(manifest, self.generator)
        else:
            name = self.generator.choice([*self.manifest["files"], "report.json"])
            file = bundle / name
            if name.endswith(".json"):
                file.write_text(json.dumps(rewritten(json.loads(file.read_text()), self.generator)))
            else:
                file.write_bytes(edited(file.read_bytes(), self.generator))
            entry = FileEntry.of(file)
            files = {**manifest["files"], name: {"sha256": entry.sha256, "bytes": entry.bytes}}
            manifest = {**manifest, "files": files}
        manifest["manifest_sha256"] = manifest_digest(manifest)
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        return Case("bundle signed again", self._command(bundle))

    def checkpoint(self) -> Case:
        suffix = self.generator.choice(sorted(self.weights))
        file = self.folder / f"weights{suffix}"
        content = self.weights[suffix]
        # Half of the edits in the header or the directory, where structure is.
        if self.generator.random() < 0.5:
            cut = 4096 if suffix == ".safetensors" else len(content) - 4096
            parts = content[:cut], content[cut:]
            index = 0 if suffix == ".safetensors" else 1
            changed = edited(parts[index], self.generator)
            content = changed + parts[1] if index == 0 else parts[0] + changed
        else:
            content = edited(content, self.generator)
        file.write_bytes(content)
        words = ["compile", "digits", "--int8", "--weights", file, "--calibration", "noise"]
        return Case("checkpoint", [*words, "--dry-run", "-o", self.folder / "never"])

    def image(self) -> Case:
        suffix = self.generator.choice(sorted(self.pictures))
        place = self.folder / "images"
        shutil.rmtree(place, ignore_errors=True)
        for number in range(2):
            (place / str(number)).mkdir(parents=True)
        (place / "0" / f"a.{suffix}").write_bytes(edited(self.pictures[suffix], self.generator))
        (place / "1" / "b.png").write_bytes(self.pictures["png"])
        return Case("image", ["eval", self.bundle, place])

    def listing(self) -> Case:
        place = self.folder / "listed"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name in ("a.png", "b c.png"):
            (place / name).write_bytes(self.pictures["png"])
        text = b"a.png 0\nb c.png 9\na.png 3\n"
        (place / "val.txt").write_bytes(edited(text, self.generator))
        return Case("listing", ["eval", self.bundle, place])

    def graph(self) -> Case:
        file = self.folder / "graph.onnx"
        file.write_bytes(edited((self.bundle / "model.onnx").read_bytes(), self.generator))
        return Case("graph", ["inspect", file])

    def calibration_set(self) -> Case:
        place = self.folder / "changed-set"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.folder / "set", place)
        file = place / self.generator.choice(["manifest.json", "batch-00000.npz"])
        file.write_bytes(edited(file.read_bytes(), self.generator))
        words = ["distill", "digits", "--int8", "--steps", "0", "--calibration", place]
        return Case("calibration set", [*words, "-o", self.folder / "tuned", "--force", "--quiet"])

    def packed(self) -> Case:
        models = self.folder / "packed"
        if not models.exists():
            from mimiq.export.triton import pack
            from mimiq.runtime.bundle import Bundle

            pack(Bundle(self.bundle), self.folder / "original", "net")
        shutil.rmtree(models, ignore_errors=True)
        shutil.copytree(self.folder / "original", models)
        file = self.generator.choice(
            [
                file
                for file in sorted(models.rglob("*"))
                if file.is_file() and file.suffix != ".onnx"
            ]
        )
        file.write_bytes(edited(file.read_bytes(), self.generator))
        return Case("model repository", ["pack", self.bundle, "--triton", models, "--name", "net"])


def run(case: Case, said: Path) -> tuple[int | None, str, float]:
    """Exit status (None for a hang), what was written, and CPU seconds; in a forked child."""
    child = os.fork()
    if child == 0:
        _answer(case, said)
    started = time.monotonic()
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            cpu = used.ru_utime + used.ru_stime
            code = os.waitstatus_to_exitcode(status)
            text = said.read_text(errors="replace") if said.exists() else ""
            return (None if cpu > LONGEST_CPU_S else code), text, cpu
        if time.monotonic() - started > LONGEST_S:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return None, "", LONGEST_S
        time.sleep(0.005)


def _answer(case: Case, said: Path) -> None:
    """In the child: what a shell would see of the command."""
    try:
        import torch
        from click.testing import CliRunner

        from mimiq.cli import main

        torch.set_num_threads(1)  # the threads of the process that forked are not in this one
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.dont_write_bytecode = True
        os.chdir(said.parent / "here")
        tempfile.tempdir = str(said.parent)  # what a command keeps for its own time is there, too
        changed: list[str] = []
        watch([said.parent, Path(os.environ["MIMIQ_CACHE"])], changed.append)
        answer = CliRunner().invoke(main, [str(word) for word in case.words])
        text = answer.output
        if answer.exception is not None and not isinstance(answer.exception, SystemExit):
            text += f"\nTraceback of {answer.exception!r}"
        if changed:
            text += f"\n{OUTSIDE}{changed[:5]}"
        said.write_text(text, errors="surrogateescape")
        code = answer.exit_code
    except BaseException as error:
        said.write_text(f"Traceback of {error!r}")
        code = 70
    os._exit(code)


def test_mutated_inputs(compile_digits: Compile, tmp_path: Path) -> None:
    import mimiq.compiler
    import mimiq.export
    import mimiq.export.triton
    import mimiq.runtime.onnxruntime.session  # noqa: F401  loaded once, before the forks

    inputs = Inputs(tmp_path, compile_digits(*CHEAP).path, int(os.environ.get("MIMIQ_SEED", "0")))
    (tmp_path / "here").mkdir()
    before = state(inputs.bundle)
    faults: list[str] = []
    ends: Counter[str] = Counter()
    longest = 0.0
    for number in range(COUNT):
        case = inputs.next()
        said = tmp_path / "said"
        said.unlink(missing_ok=True)
        code, text, cpu = run(case, said)
        longest = max(longest, cpu)
        what = f"{number} {case.kind}: {' '.join(map(str, case.words))}"
        ends[f"{case.kind}: {'accepted' if code == 0 else 'refused'}"] += 1
        if code is None:
            faults.append(f"hang: {what}")
        elif code == 70 or code < 0 or "Traceback" in text or "internal error" in text:
            faults.append(f"failed ({code}): {what}: {text[-600:]}")
        elif OUTSIDE in text:
            faults.append(f"wrote where it must not: {what}: {text[-600:]}")
        elif case.changed and code == 0:
            faults.append(f"accepted: {what}")
        elif {"\x1b", "\x07", "\x9b"} & set(text):
            faults.append(f"raw control characters: {what}")
        elif code != 0 and len(text) > 50_000:
            faults.append(f"a message of {len(text)} characters: {what}")
        if len(faults) > 20:
            break
        if faults and faults[-1].find(f" {number} ") >= 0:
            keep = tmp_path / "faults" / str(number)
            for place in ("changed.mimiq", "images", "listed", "changed-set", "packed"):
                if (tmp_path / place).exists():
                    shutil.copytree(tmp_path / place, keep / place)
            print(faults[-1], file=sys.stderr, flush=True)
    record(
        "mutations",
        f"MIMIQ_MUTATIONS={COUNT} pytest -n 0 --nightly tests/nightly/test_mutated_inputs.py",
        {
            "inputs": sum(ends.values()),
            "faults": len(faults),
            "longest_cpu_s": round(longest, 1),
            "by_kind": dict(sorted(ends.items())),
        },
    )
    assert not faults, "\n".join(faults)
    assert state(inputs.bundle) == before
    assert not state(tmp_path / "here")

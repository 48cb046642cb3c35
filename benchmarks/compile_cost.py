"""What a compilation costs: seconds and peak memory of every stage, beside the least they could be.

Each compilation is a process of its own, images and cache in a folder of its own, so that nothing
is taken from an earlier run; precisions after the first take the images of the first, as a user's
do. The yardstick is measured in the same process: one forward of the network in fp32 (or in the
format that synthesis computes in), so that other work on the host strikes both alike.

    python benchmarks/compile_cost.py --model deit_t --weights deit_tiny_patch16_224.safetensors \\
        --recipes fast cpu --bits w8a8 w4a8 w4a4 --host avx2

``--host avx2`` forbids every library what a CPU with AVX2 alone lacks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import record
import torch

from mimiq.cache import Cache
from mimiq.compiler import compile_model
from mimiq.config.precision import from_bits, parse_bits
from mimiq.config.recipes import NAMES, changed, recipe_for
from mimiq.devices import fast_dtype
from mimiq.models import LoadedModel, load_model
from mimiq.progress import Progress, Stage
from mimiq.spec import Job
from mimiq.synthesis.sparse import share_seen

# What each library calls a CPU with AVX2 and no more.
HOSTS: dict[str, dict[str, str]] = {
    "own": {},
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_CBWR": "AVX2",
        # Kept code does not tell these instructions from the CPU's own.
        "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir()) / "torchinductor_avx2"),
    },
}
_YARDSTICK_IMAGES = 16
_YARDSTICK_ROUNDS = 3
_IMAGE_STAGE = "synthesize"
_FIT_STAGE, _FIT = "quantize", "fitting weights"  # a part of the stage, and what it calls itself


class TimedParts(Stage):
    """Seconds of the parts of a stage, by what it says that it does."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._begun = time.monotonic()
        self._text = ""

    def update(
        self, done: int | None = None, text: str | None = None, *, total: int | None = None
    ) -> None:
        now = time.monotonic()
        self.parts[self._text] = self.parts.get(self._text, 0.0) + now - self._begun
        self._begun, self._text = now, self._text if text is None else text


class TimedProgress(Progress):
    """Seconds and peak resident memory of each stage, in the order in which they ran."""

    def __init__(self) -> None:
        self.stages: list[dict[str, Any]] = []

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        _forget_peak()
        started, timed = time.monotonic(), TimedParts()
        try:
            yield timed
        finally:
            timed.update()
            seconds = time.monotonic() - started
            row = {"stage": name, "seconds": seconds, "peak_bytes": _peak_resident()}
            if name == _FIT_STAGE:
                row["parts"] = timed.parts
            self.stages.append(row)
            print(f"  {name}: {seconds:.1f} s", file=sys.stderr, flush=True)


def main() -> None:
    arguments = _arguments()
    if arguments.one:
        print(json.dumps(one_compilation(arguments)))
        return
    rows: list[dict[str, Any]] = []
    model = load_model(arguments.model, weights=arguments.weights)
    study = f"compile_cost_{arguments.model}_{arguments.host}"
    for recipe in arguments.recipes:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as cache:
            for bits in arguments.bits:
                rows.append(_in_own_process(arguments, recipe, bits, Path(cache)))
                result = {
                    **record.made_with(model),
                    "host": arguments.host,
                    "threads": arguments.threads,
                    "rows": rows,
                }
                record.write(arguments.output, study, result, table(rows))
    print(table(rows))


def _in_own_process(
    arguments: argparse.Namespace, recipe: str, bits: str, cache: Path
) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", "--model", arguments.model]
    command += ["--recipes", recipe, "--bits", bits, "--scratch", str(cache)]
    command += [] if arguments.weights is None else ["--weights", str(arguments.weights)]
    command += [] if arguments.images is None else ["--images", str(arguments.images)]
    threads = {"OMP_NUM_THREADS": str(arguments.threads)}
    environment = {**os.environ, **threads, **HOSTS[arguments.host]}
    print(f"== {arguments.model}, {recipe}, {bits}", file=sys.stderr, flush=True)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return {"recipe": recipe, "bits": bits, **row}


def one_compilation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compile once, and measure the yardsticks before and after."""
    started = time.monotonic()
    model = load_model(arguments.model, weights=arguments.weights)
    loaded = time.monotonic() - started
    (recipe_name,), (bits,) = arguments.recipes, arguments.bits
    precision = from_bits(*parse_bits(bits))
    recipe = changed(recipe_for(recipe_name, precision), arguments.images)
    before = yardstick(model)
    progress = TimedProgress()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as out:
        job = Job(model, precision, recipe, Path(out) / "bundle", device="cpu", batches=())
        report = compile_model(job, Cache(arguments.scratch / "cache"), progress).bundle.report
    seconds = time.monotonic() - begun
    after = yardstick(model)
    return {
        "seconds": loaded + seconds,
        "load_seconds": loaded,
        "stages": progress.stages,
        "least": least(model, recipe, {name: min(before[name], after[name]) for name in before}),
        "yardstick": {"before": before, "after": after},
        "bfloat16": fast_dtype(torch.device("cpu")) is not None,
        "held_out": None if report.held_out is None else report.held_out.to_json(),
    }


def yardstick(model: LoadedModel) -> dict[str, float]:
    """Seconds an image of a forward in fp32, and of forward and image gradient as synthesis does.

    The least of a few rounds: other work on the host only ever adds.
    """
    images = torch.randn(_YARDSTICK_IMAGES, *model.preprocessing.input_shape)
    dtype = fast_dtype(torch.device("cpu"))

    def forward() -> None:
        with torch.no_grad():
            model.module(images)

    def gradient() -> None:
        leaf = images.clone().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            answers = model.module(leaf)
        torch.autograd.grad(answers.float().square().sum(), leaf)

    def seconds(run: Any) -> float:
        found = []
        for _ in range(_YARDSTICK_ROUNDS + 1):
            started = time.perf_counter()
            run()
            found.append(time.perf_counter() - started)
        return min(found[1:]) / _YARDSTICK_IMAGES

    return {"forward": seconds(forward), "gradient": seconds(gradient)}


def least(model: LoadedModel, recipe: Any, an_image: Mapping[str, float]) -> dict[str, float]:
    """Seconds that a stage takes at least, were its forwards and backwards all that it did.

    Synthesis sees its share of every image once an iteration, forward and backward. The fit sees
    what it is fitted to once in full precision and once quantised; the stage that it is a part of
    looks for ranges before it.
    """
    synthesis = recipe.synthesis
    count = synthesis.images + recipe.procedural
    looks = share_seen(model, synthesis) * synthesis.images * synthesis.iterations
    return {
        _IMAGE_STAGE: looks * an_image["gradient"],
        _FIT_STAGE: 2 * count * an_image["forward"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line a compilation; seconds by stage, and how often the least they could take."""
    names = list(dict.fromkeys(each["stage"] for row in rows for each in row["stages"]))
    head = ["recipe", "precision", "all, s", *(f"{name}, s" for name in names), "peak, GiB"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["recipe"], row["bits"], f"{row['seconds']:.0f}"]
        for name in names:
            spent = sum(each["seconds"] for each in row["stages"] if each["stage"] == name)
            bound = row["least"].get(name)
            times = f" ({spent / bound:.1f}×)" if bound and spent else ""
            fit = sum(
                each.get("parts", {}).get(_FIT, 0.0)
                for each in row["stages"]
                if each["stage"] == name
            )
            if bound and fit:
                times += f", of it the fit {fit:.0f} ({fit / bound:.1f}×)"
            cells.append(f"{spent:.0f}{times}" if spent else "–")
        peak = max(each["peak_bytes"] or 0 for each in row["stages"])
        lines.append("| " + " | ".join([*cells, f"{peak / 2**30:.1f}"]) + " |")
    return "\n".join(lines) + "\n"


def _forget_peak() -> None:
    """Start the peak resident size anew, where the kernel can (Linux)."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def _peak_resident() -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", default="deit_t")
    add("--weights", type=Path)
    add("--recipes", nargs="+", choices=NAMES, default=["cpu"])
    add("--bits", nargs="+", default=["w8a8", "w4a8", "w4a4"])
    add("--images", type=int, help="synthesise so many instead of the recipe's")
    add("--host", choices=HOSTS, default="own")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--scratch", type=Path, help="where temporary folders go")
    add("--output", type=Path, default=Path(__file__).parent / "results")
    add("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Ranks under torchrun: one killed at random moments, and a trained network on several.

MIMIQ_KILLS=10 pytest -n 0 --nightly tests/nightly/test_killed_ranks.py
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from export_networks import DEIT_T
from figures import record
from forked_ranks import run_ranks

from mimiq.compiler import help_compile
from mimiq.config.distillation import DistillationRecipe
from mimiq.config.precision import int4
from mimiq.config.recipes import Recipe
from mimiq.config.synthesis import SynthesisRecipe
from mimiq.models import load_model
from mimiq.progress import SILENT
from mimiq.quantize.insert import RangeRecipe
from mimiq.quantize.store import load_quantized
from mimiq.runtime.evaluation.held_out import relative_error
from mimiq.spec import Job
from mimiq.stages.shared_cache import cache_for

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux", reason="finds its ranks in /proc"),
]

COMMAND = "pytest -n 0 --nightly tests/nightly/test_killed_ranks.py"
KILLS = int(os.environ.get("MIMIQ_KILLS", "10"))
SET = ("synthesize", "digits", "--recipe", "fast", "--images", "64", "--quiet")
# Four batches of images, and scenes enough that four ranks have some in the fit.
SYNTHESIS = SynthesisRecipe("few", images=8, iterations=2, batch_size=2, start="scenes")
RECIPE = Recipe("few", SYNTHESIS, RangeRecipe(), DistillationRecipe(steps=0), procedural=92)


def torchrun(world: int, *command: str) -> subprocess.Popen[str]:
    launcher = ("torch.distributed.run", "--nproc-per-node", str(world), "-m", "mimiq")
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("batch-*"))}


def test_a_rank_killed_at_a_random_moment_costs_nothing_that_is_whole(tmp_path: Path) -> None:
    started = time.monotonic()
    whole = torchrun(2, *SET, "-o", str(tmp_path / "whole"))
    assert whole.wait() == 0, whole.stderr and whole.stderr.read()
    lasted = time.monotonic() - started
    drawn, kept = random.Random(0), list[int]()
    for run in range(4 * KILLS):
        out = tmp_path / f"set{run}"
        started = time.monotonic()
        running = torchrun(2, *SET, "-o", str(out))
        with suppress(subprocess.TimeoutExpired):
            running.wait(drawn.uniform(0.2, 0.95) * lasted)
        if ended := running.poll() is not None:  # other work on the host had made the first slow
            lasted = time.monotonic() - started
        elif ranks := children(running.pid):
            os.kill(drawn.choice(ranks), signal.SIGKILL)
            kept.append(len(list(out.glob("batch-*"))) if out.exists() else 0)
        said = running.communicate()[1]
        assert said.count("error: ") <= 1, said
        if not ended:
            again = torchrun(2, *SET, "-o", str(out))
            assert again.wait() == 0, again.stderr and again.stderr.read()
        assert shards(out) == shards(tmp_path / "whole"), f"run {run}"
        if len(kept) == KILLS:
            break
    record("killed_ranks", COMMAND, {"killed": len(kept), "batches_kept": kept, "same": len(kept)})
    assert len(kept) == KILLS


@pytest.mark.skipif(not DEIT_T.exists(), reason="../shared/weights is absent")
@pytest.mark.parametrize("world", [2, 4])
def test_a_trained_network_on_several_ranks_is_that_of_one(tmp_path: Path, world: int) -> None:
    model = load_model("deit_t", weights=DEIT_T)
    job = Job(model, int4(), RECIPE, tmp_path / "out", device="cpu", batches=())
    torch.set_num_threads(1)

    def work(_: int) -> None:
        help_compile(job, cache_for(tmp_path / "several", SILENT), SILENT)

    assert run_ranks(world, work, tmp_path) == [(0, "")] * world
    help_compile(job, cache_for(tmp_path / "one", SILENT), SILENT)
    sets, answers = [], []
    for name in ("one", "several"):
        (made,) = (tmp_path / name).glob("calibration-*/set")
        sets.append(shards(made))
        (fitted,) = (tmp_path / name).glob("tuned-*")
        with torch.no_grad():
            images = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
            answers.append(load_quantized(model, fitted).module(images).numpy())
    assert sets[0] == sets[1]
    difference = relative_error(answers[1], answers[0])
    record(f"{world}_ranks_deit_t", COMMAND, {"logit_difference": difference, "same_set": True})
    assert difference < 1e-6

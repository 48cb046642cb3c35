"""Several ranks on one host: the same set and network, and one error where one is at fault."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked_ranks import run_ranks

from mimiq import ranks
from mimiq.cache import Cache
from mimiq.calibrate import CalibrationSetWriter
from mimiq.compiler import help_compile
from mimiq.config.distillation import DistillationRecipe, Views
from mimiq.config.precision import from_bits
from mimiq.config.recipes import Recipe
from mimiq.config.synthesis import Augmentation, SynthesisRecipe
from mimiq.errors import BadInput
from mimiq.models import LoadedModel, load_model
from mimiq.models.digits import digits_heldout
from mimiq.progress import SILENT
from mimiq.quantize.insert import RangeRecipe
from mimiq.runtime.evaluation.held_out import relative_error
from mimiq.spec import Job
from mimiq.stages.images import calibration_set, tuning_images
from mimiq.stages.shared_cache import cache_for
from mimiq.stages.tune import FitNetwork, Tuned, tuned_network
from mimiq.synthesis.mimiq import synthesize

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its ranks")

SYNTHESIS = SynthesisRecipe(
    "test", images=80, iterations=1, batch_size=20, augmentation=Augmentation(roll=(1, 2))
)
RECIPE = Recipe(
    "test",
    SYNTHESIS,
    RangeRecipe("minmax", outliers=False, importance=False),
    DistillationRecipe(
        steps=4, batch_size=6, evaluate_every=2, views=Views(flip=0.5, mix=0.5), held_out=0.25
    ),
)


def job_of(model: LoadedModel, folder: Path) -> Job:
    return Job(model, from_bits(4, 8), RECIPE, folder / "out.mimiq", device="cpu", batches=())


def fitted_and_tuned(job: Job, cache: Cache) -> tuple[Tuned, Tuned]:
    """A job's network before and after distillation, in a cache that may hold them."""
    calibration = calibration_set(job, cache, SILENT)
    images = tuning_images(job, calibration)
    tuned = tuned_network(job, calibration, images, cache, SILENT)
    return cache.run(FitNetwork.of(job, calibration, images), SILENT), tuned


def sets_in(folder: Path) -> list[dict[str, bytes]]:
    """Every shard of every set below a folder."""
    return [
        {file.name: file.read_bytes() for file in sorted(found.glob("batch-*"))}
        for found in sorted(folder.rglob("set"))
    ]


@pytest.fixture(scope="module")
def trained() -> LoadedModel:
    return load_model("digits")


@pytest.fixture(scope="module")
def one(
    trained: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Tuned, Tuned]]:
    """The cache of one process, and what it made."""
    folder = tmp_path_factory.mktemp("one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as ranks have
    yield folder, *fitted_and_tuned(job_of(trained, folder), Cache(folder))
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("world", "shared"), [(2, True), (4, False)])
def test_the_set_is_the_same_and_the_network_within_rounding(
    trained: LoadedModel,
    one: tuple[Path, Tuned, Tuned],
    tmp_path: Path,
    world: int,
    shared: bool,
) -> None:
    """With a cache that the ranks share, and with one of its own for each."""

    def cache_of(rank: int) -> Path:
        return tmp_path / ("cache" if shared else f"cache{rank}")

    def work(rank: int) -> None:
        help_compile(job_of(trained, tmp_path), cache_for(cache_of(rank), SILENT), SILENT)

    answers = run_ranks(world, work, tmp_path)
    assert answers == [(0, "")] * world
    pixels, _ = digits_heldout()
    images = torch.from_numpy(trained.preprocessing.normalize(pixels[:32]))
    for rank in range(1 if shared else world):
        assert sets_in(cache_of(rank)) == sets_in(one[0])
        fitted, tuned = fitted_and_tuned(job_of(trained, tmp_path), Cache(cache_of(rank)))
        assert not list(cache_of(rank).glob("*.partial"))
        # The fit sums in fp64, in another order, which may turn a tie of its rounding.
        own = one[1].network.module.state_dict()
        others = sum(
            int(torch.isclose(value, own[name], rtol=1e-5, atol=1e-6).logical_not().sum())
            for name, value in fitted.network.module.state_dict().items()
        )
        assert others < 1e-3 * sum(value.numel() for value in own.values())
        # Distillation carries the order of fp32 sums on from step to step: two results are no
        # further apart than each is from full precision.
        with torch.no_grad():
            full = trained.module(images).numpy()
            wanted = one[2].network.module(images).numpy()
            found = tuned.network.module(images).numpy()
            fits = [each.network.module(images).numpy() for each in (one[1], fitted)]
        assert relative_error(fits[1], fits[0]) < 1e-4
        assert relative_error(found, wanted) < relative_error(wanted, full)
        assert tuned.report.result.history[0] == one[2].report.result.history[0]


def test_a_run_goes_on_from_whole_shards_whoever_made_them(
    trained: LoadedModel, one: tuple[Path, Tuned, Tuned], tmp_path: Path
) -> None:
    """A rank dies in the middle of its batches; the same again makes what is missing alone."""
    (whole,) = one[0].rglob("set")
    out = tmp_path / "set"

    def work(_: int) -> None:
        synthesize(trained, SYNTHESIS, out=out, device="cpu")

    def dies(rank: int) -> None:
        if rank == 1:
            kill_after_a_batch()
        work(rank)

    (first, said), (second, _) = run_ranks(2, dies, tmp_path)
    assert second == -9
    assert first == 6
    assert said.count("error:") == 1
    assert "Another process of this run ended" in said
    assert "goes on from what is finished" in said
    begun = {file: file.stat().st_mtime_ns for file in out.glob("batch-*")}
    assert 0 < len(begun) < 4
    assert run_ranks(2, work, tmp_path) == [(0, "")] * 2
    assert {file: file.stat().st_mtime_ns for file in begun} == begun
    assert sets_in(tmp_path) == [{f.name: f.read_bytes() for f in sorted(whole.glob("batch-*"))}]


def kill_after_a_batch() -> None:
    """This process, once it has written one."""
    write = CalibrationSetWriter.write

    def kill(*args: object) -> None:
        write(*args)  # type: ignore[arg-type]
        os.kill(os.getpid(), 9)

    CalibrationSetWriter.write = kill  # type: ignore[method-assign]


def test_more_ranks_than_batches_are_refused_once(trained: LoadedModel, tmp_path: Path) -> None:
    few = replace(SYNTHESIS, images=20)
    answers = run_ranks(2, lambda _: synthesize(trained, few, out=tmp_path / "set"), tmp_path)
    assert [code for code, _ in answers] == [2, 2]
    said = "".join(text for _, text in answers)
    assert said.count("error:") == 1
    assert "There are 2 processes, and 20 images in batches of 20 are 1 batches" in said


@pytest.mark.parametrize("fact", ["version of mimiq", "network (hash of the weights)"])
def test_ranks_that_differ_are_refused_once(tmp_path: Path, fact: str) -> None:
    def work(rank: int) -> None:
        ranks.agree(
            {"version of mimiq": "1", "network (hash of the weights)": "a", fact: str(rank)}
        )

    answers = run_ranks(2, work, tmp_path)
    assert [code for code, _ in answers] == [2, 2]
    said = "".join(text for _, text in answers)
    assert said.count("error:") == 1
    assert f"Rank 1 has another {fact} than rank 0: 1, and not 0." in said


def test_a_rendezvous_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    environment = {"RANK": "0", "MIMIQ_RENDEZVOUS_SECONDS": "1"}
    ((code, said),) = run_ranks(
        2, lambda _: None, tmp_path, environment=environment, ranks_started=1
    )
    assert code == 6
    assert said.count("error:") == 1
    assert "cannot be reached at 127.0.0.1:" in said


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="RANK, MASTER_ADDR, MASTER_PORT are not set"):
        ranks.joined().__enter__()


def test_one_process_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks.joined() as group:
        assert (group.rank, group.world, group.first) == (0, 1, True)
        tensor = torch.ones(2)
        group.sum_([tensor])
        assert tensor.tolist() == [1, 1]
        assert group.gather({"a": 1}) == [{"a": 1}]
        assert (group.share(3), group.send(b"x", 0)) == (3, b"x")


@pytest.mark.parametrize(("world", "code"), [("1", -signal.SIGABRT), ("2", 0)])
def test_a_rank_that_is_done_is_not_ended_by_its_libraries(world: str, code: int) -> None:
    """What a library does at the end of the process costs one process its result, a rank not."""
    program = (
        "import atexit, os, sys; atexit.register(os.abort); sys.argv = ['mimiq', '--version'];"
        "from mimiq.entry import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "WORLD_SIZE": world, "RANK": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert done.stdout.startswith("mimiq")

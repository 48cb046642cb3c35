"""A set made in shares by jobs that know nothing of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mimiq.calibrate import CalibrationSet
from mimiq.cli import main
from mimiq.config.shard import Shard, parse_shard
from mimiq.config.synthesis import SynthesisRecipe
from mimiq.errors import BadInput
from mimiq.models import LoadedModel
from mimiq.synthesis.driver import Unfinished
from mimiq.synthesis.mimiq import synthesize, synthesize_shard

RECIPE = SynthesisRecipe("test", images=9, iterations=1, batch_size=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".json"}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1)])
def test_the_set_is_the_same_whoever_made_its_batches(
    small_vit: LoadedModel, tmp_path: Path, order: tuple[int, ...]
) -> None:
    whole = synthesize(small_vit, RECIPE, out=tmp_path / "whole", device="cpu")
    made = [
        synthesize_shard(small_vit, RECIPE, Shard(index, 3), out=tmp_path / "set", device="cpu")
        for index in order
    ]
    first, second, last = made
    assert isinstance(first, Unfinished)
    assert isinstance(second, Unfinished)
    assert isinstance(last, CalibrationSet)
    assert sorted(first.missing) == sorted(Shard(index, 3) for index in order[1:])
    assert first.missing[Shard(2, 3)] == [1, 4]
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert last.content_hash == whole.content_hash


def test_an_unfinished_set_names_what_is_missing_and_what_makes_it(
    small_vit: LoadedModel, tmp_path: Path
) -> None:
    synthesize_shard(small_vit, RECIPE, Shard(1, 2), out=tmp_path / "set", device="cpu")
    with pytest.raises(BadInput) as refused:
        CalibrationSet.open(tmp_path / "set")
    assert "2 of 5 batches are missing (batch-00001.npz, batch-00003.npz)" in str(refused.value)
    assert "mimiq synthesize small --recipe test --images 9 --seed 0 --out" in str(refused.value)


def test_the_command_names_the_command_of_every_shard_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mimiq.cli import values

    monkeypatch.setattr(values, "synthesis_of", lambda *_: RECIPE)
    arguments = ["synthesize", "digits", "-o", str(tmp_path / "set"), "--seed", "3"]
    answer = CliRunner().invoke(main, [*arguments, "--shard", "2/3"])
    assert answer.exit_code == 0, answer.stderr
    for shard in ("1/3", "3/3"):
        assert f"mimiq synthesize digits --seed 3 -o {tmp_path / 'set'} --shard {shard}" in (
            answer.stdout
        )
    answer = CliRunner().invoke(main, [*arguments, "--shard", "1/3", "--json"])
    assert json.loads(answer.stdout)["missing"] == {"3/3": [2]}


def test_a_task_of_an_array_finds_its_shard() -> None:
    array = {
        "SLURM_ARRAY_TASK_ID": "14",
        "SLURM_ARRAY_TASK_MIN": "10",
        "SLURM_ARRAY_TASK_STEP": "2",
        "SLURM_ARRAY_TASK_COUNT": "4",
    }
    assert parse_shard("slurm", array) == Shard(3, 4)
    with pytest.raises(BadInput, match="no task of a SLURM array"):
        parse_shard("slurm", {})


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "2", "a/b"])
def test_a_shard_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="shard="):
        parse_shard(text)


@pytest.mark.parametrize("more", [("--method", "noise"), ("--format", "npy")])
def test_what_has_no_shards_is_refused(tmp_path: Path, more: tuple[str, str]) -> None:
    arguments = ["synthesize", "digits", "-o", str(tmp_path / "set"), "--shard", "1/2", *more]
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 2
    assert "--shard" in answer.stderr

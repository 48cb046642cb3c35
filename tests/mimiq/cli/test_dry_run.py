"""``--dry-run``: everything that a compilation would do, and nothing of it done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from compiled import INT8, Compile

from mimiq.cli import main

ASKED = ("compile", "digits", "--int8", "--images", "16", "--steps", "2", "--target", "ort")


def answer(*arguments: object) -> str:
    found = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert found.exit_code == 0, found.output
    return found.stdout


def planned(*arguments: object) -> dict[str, Any]:
    plan = json.loads(answer(*arguments, "--dry-run", "--json", "--quiet"))
    return {step["name"]: step for step in plan["steps"]} | {"all": plan}


def test_every_step_and_its_time(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out.mimiq"
    found = planned(*ASKED, "-o", out, "--cache-dir", cache)
    assert list(found) == ["images", "quantize", "distill", "latency", "all"]
    assert "16 synthesised in 60 steps" in found["images"]["what"]
    assert all(found[step]["seconds"] > 0 for step in ("images", "quantize", "distill"))
    assert found["all"]["seconds"] >= found["latency"]["seconds"]
    assert not out.exists()
    assert not cache.exists()


def test_more_images_and_steps_take_longer(tmp_path: Path) -> None:
    where = ("-o", tmp_path / "out.mimiq", "--cache-dir", tmp_path / "cache")
    found = planned(*ASKED, *where)
    more = planned(*ASKED[:3], "--images", 4096, "--steps", 4000, *ASKED[7:], *where)
    assert more["images"]["seconds"] > 10 * found["images"]["seconds"]
    assert more["quantize"]["seconds"] > 10 * found["quantize"]["seconds"]
    assert more["distill"]["seconds"] > 10 * found["distill"]["seconds"]


def test_what_is_there_already_takes_no_time(compile_digits: Compile, tmp_path: Path) -> None:
    compile_digits(*INT8)
    found = planned("compile", "digits", *INT8, "--no-bench", "-o", tmp_path / "other.mimiq")
    assert found["images"] == {"name": "images", "what": "there already", "seconds": 0.0}
    assert "latency" not in found


def test_the_plan_in_words(tmp_path: Path) -> None:
    text = answer(*ASKED, "--dry-run", "-o", tmp_path / "out.mimiq", "--cache-dir", tmp_path / "c")
    assert "digits at w8a8, recipe tiny" in text
    assert "Nothing was done." in text

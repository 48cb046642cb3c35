"""Sweeps: what is planned, that it goes on, and what fails alone."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from reports import report, row
from runtime_models import manifest_entries, write_linear_classifier

from mimiq.calibrate import gaussian_noise
from mimiq.cli import main
from mimiq.config.precision import from_bits
from mimiq.errors import BadInput
from mimiq.runtime.bundle_writing import write_bundle
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.sweep.plan import make_plan, read_plan
from mimiq.sweep.run import Sweep
from mimiq.sweep.work import Outcome, error_in, run_command

GIVEN = {"models": ["digits"], "precisions": ["int8", "int4"], "recipes": ["fast"], "images": 8}


def options_of(command: Sequence[str]) -> dict[str, str]:
    return {name: value for name, value in itertools.pairwise(command) if "--" in name}


@dataclass
class Host:
    """Runs what is submitted at once, as the commands would: sets and bundles appear.

    Attributes:
        failing: what a command holds that fails.
        error: what it says then.
        ran: every command, in order.
        stops_at: the submission at which the sweep is interrupted.
    """

    model: Path
    failing: str = "nothing"
    error: str = "It cannot be."
    stops_at: int | None = None
    ran: list[list[str]] = field(default_factory=list)

    def submit(self, command: Sequence[str], log: Path) -> Any:
        if len(self.ran) == self.stops_at:
            raise KeyboardInterrupt
        self.ran.append(list(command))
        return _Done(self._run(list(command)))

    def _run(self, command: list[str]) -> Outcome:
        if self.failing in command:
            return Outcome(2, self.error, 1.0)
        place = Path(options_of(command)["--out"])
        if "synthesize" in command:
            gaussian_noise(Preprocessing(image_size=8), 4, 0, place)
            return Outcome(0, "", 1.0)
        assert Path(options_of(command)["--calibration"], "manifest.json").is_file()
        precision = from_bits(8 if "--int8" in command else 4, 8)
        rows = [row("fp32", 1, 1.0), row(precision.label, 1, 2.0)]
        write_bundle(
            place,
            {"model.onnx": self.model},
            manifest_entries() | {"precision": precision.to_json()},
            report=report(precision=precision.to_json(), latency=rows),
            overwrite=True,
        )
        return Outcome(0, "", 2.0)


@dataclass(frozen=True)
class _Done:
    outcome: Outcome

    def done(self) -> bool:
        return True

    def result(self) -> Outcome:
        return self.outcome

    def cancel(self) -> None:
        return


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(write_linear_classifier(tmp_path / "linear.onnx"))


def swept(host: Host, out: Path, given: dict[str, Any] = GIVEN) -> Sweep:
    made = Sweep(make_plan(given), out)
    made.run(host.submit, 1, lambda: None, poll_s=0)
    return made


def test_a_network_may_have_a_name_precisions_and_recipes_of_its_own() -> None:
    plan = make_plan(
        {
            "models": [
                "digits",
                {"model": "digits", "weights": "w.safetensors", "name": "retrained"}
                | {"precisions": ["w4a4"], "recipes": ["fast", "cpu"]},
            ],
            "precisions": ["int8", "int4"],
        }
    )
    assert [cell.name for cell in plan.cells] == [
        *("digits-int8", "digits-int4", "retrained-fast-w4a4", "retrained-cpu-w4a4"),
    ]
    assert all(cell.command[1] == "digits" for cell in plan.cells)
    with pytest.raises(BadInput, match="digits-int8 twice") as raised:
        make_plan({"models": ["digits", {"model": "digits"}], "precisions": ["int8"]})
    assert "name of its own" in str(raised.value)


def test_every_combination_is_a_cell_and_networks_make_their_images_once() -> None:
    plan = make_plan(
        {
            "models": ["digits", {"model": "deit_t", "weights": "w.safetensors"}],
            "precisions": ["int8", "int4-weight-only"],
            "recipes": ["fast", "cpu"],
            "steps": 5,
            "images": 9,
        }
    )
    assert len(plan.cells) == 8
    assert [images.name for images in plan.images] == [
        "digits-fast",
        "digits-cpu",
        "deit_t-fast",
        "deit_t-cpu",
    ]
    cell = next(cell for cell in plan.cells if cell.name == "deit_t-cpu-int4-weight-only")
    assert " ".join(cell.command) == (
        "compile deit_t --int4 --weight-only --weights w.safetensors --recipe cpu --steps 5"
    )
    assert cell.images is not None
    assert " ".join(cell.images.command) == (
        "synthesize deit_t --weights w.safetensors --recipe cpu --images 9"
    )


def test_what_is_planned_are_commands_that_there_are() -> None:
    """Every command is read by the command line; it stops at the file that is not there."""
    network = {"model": "deit_t", "weights": "none.safetensors", "num_classes": 3}
    given = GIVEN | {"models": [network], "batches": [1, 8], "device": "cpu", "target": "ort"}
    plan = make_plan(given | {"seed": 1, "steps": 0})
    for command in (plan.cells[0].command, plan.images[0].command):
        answer = CliRunner().invoke(main, [*command, "-o", "nowhere"])
        assert "none.safetensors" in answer.stderr


def test_a_sweep_goes_on_where_it_was_interrupted(host: Host, tmp_path: Path) -> None:
    host.stops_at = 2
    with pytest.raises(KeyboardInterrupt):
        swept(host, tmp_path / "sweep")
    assert [command[3] for command in host.ran] == ["synthesize", "compile"]
    host.stops_at = None
    made = swept(host, tmp_path / "sweep")
    assert [command[3] for command in host.ran] == ["synthesize", "compile", "compile"]
    assert [row.state for row in made.rows.values()] == ["done", "done"]
    swept(host, tmp_path / "sweep")
    assert len(host.ran) == 3  # all of it is there


def test_a_changed_cell_is_made_again(host: Host, tmp_path: Path) -> None:
    swept(host, tmp_path / "sweep")
    swept(host, tmp_path / "sweep", GIVEN | {"steps": 7})
    assert [command[3] for command in host.ran[3:]] == ["compile", "compile"]


def test_a_failed_cell_is_named_and_the_others_are_finished(host: Host, tmp_path: Path) -> None:
    host.failing = "--int8"
    made = swept(host, tmp_path / "sweep")
    assert made.failed == {"digits-fast-int8": "It cannot be."}
    assert [path.name for path in made.bundles] == ["digits-fast-int4.mimiq"]
    host.failing = "nothing"
    assert not swept(host, tmp_path / "sweep").failed


def test_without_images_all_cells_of_the_network_fail(host: Host, tmp_path: Path) -> None:
    host.failing = "synthesize"
    made = swept(host, tmp_path / "sweep")
    assert set(made.failed.values()) == {"Its images: It cannot be."}


def test_the_command_writes_tables_and_a_page(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mimiq.sweep import run

    monkeypatch.setattr(run, "submitter", lambda *_: host.submit)
    monkeypatch.setattr(run, "_POLL_SECONDS", 0)
    arguments = ["--models", "digits", "--precisions", "int8,int4", "-o", str(tmp_path / "sweep")]
    answer = CliRunner().invoke(main, ["sweep", *arguments])
    assert answer.exit_code == 0, answer.stderr
    assert "digits-int8: done" in answer.stderr
    assert "digits-int4" in answer.stdout
    page = (tmp_path / "sweep" / "index.html").read_text(encoding="utf-8")
    assert "Recommended" in page
    host.failing = "w5a5"
    arguments[3] += ",w5a5"
    answer = CliRunner().invoke(main, ["sweep", *arguments])
    assert answer.exit_code == 1
    assert "1 of 3 cells failed: digits-w5a5." in answer.stderr
    assert "It cannot be." in (tmp_path / "sweep" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("terminal", ["", "1"])
def test_escape_codes_of_an_error_are_shown_and_not_sent(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: str
) -> None:
    from mimiq.sweep import run

    monkeypatch.setenv("FORCE_COLOR", terminal)  # a terminal to Rich
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(run, "submitter", lambda *_: host.submit)
    monkeypatch.setattr(run, "_POLL_SECONDS", 0)
    host.failing, host.error = "synthesize", "no node \x1b]0;title\x07 here"
    words = ["--models", "digits", "--precisions", "int8", "-o", str(tmp_path / "sweep")]
    answer = CliRunner().invoke(main, ["sweep", *words])
    assert answer.exit_code == 1
    assert "\\x1b]0;title" in answer.stderr
    assert "\x1b]" not in answer.output
    assert "\x07" not in answer.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modles: [digits]", "'modles', which is unknown; did you mean 'models'?"),
        ("models: [{model: digits, wieghts: a}]\nprecisions: [int8]", "did you mean 'weights'?"),
        ("models: [digits]\nprecisions: [int9x]", "int9x"),
        ("models: [digits]\nprecisions: [int8]\nrecipes: [fats]", "did you mean 'fast'?"),
        ("models: [digits]", "names no precisions"),
        ("models: [digits, digits]\nprecisions: [int8]", "twice"),
        ("models: [digits\n", "not valid YAML"),
        ("- a", "holds no keys"),
    ],
)
def test_what_cannot_be_planned_is_one_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(BadInput) as refused:
        read_plan(tmp_path / "plan.yaml")
    assert said in str(refused.value)


def test_a_job_tells_the_error_of_its_command(tmp_path: Path) -> None:
    script = "import sys; print('note'); sys.exit('error: It is wrong.\\n  Mend it.')"
    outcome = run_command([sys.executable, "-c", script], tmp_path / "log.txt")
    assert (outcome.code, outcome.error) == (1, "It is wrong. Mend it.")
    assert error_in("") == "It ended without a word."

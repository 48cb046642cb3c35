"""Running a sweep: images first, then the cells that wait for them, a few at a time."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mimiq.calibrate import CalibrationSet
from mimiq.config.command import flag_for
from mimiq.errors import BadInput, EnvironmentLacks, MimiqError, missing_extra
from mimiq.files import write_whole
from mimiq.runtime.bundle import Bundle
from mimiq.sweep.plan import Cell, Images, Plan, program
from mimiq.sweep.work import Outcome, run_command

State = Literal["waiting", "running", "done", "failed"]
_POLL_SECONDS = 0.5
_STATE = "sweep.json"


@dataclass
class Row:
    """How a cell stands.

    Attributes:
        bundle: where it is written.
        error: why it failed.
        seconds: that it took.
    """

    name: str
    bundle: Path
    state: State = "waiting"
    error: str = ""
    seconds: float | None = None


class Job(Protocol):
    """A job that was submitted."""

    def done(self) -> bool: ...
    def result(self) -> Any: ...
    def cancel(self) -> Any: ...


Submit = Callable[[Sequence[str], Path], Job]


def submitter(folder: Path, cluster: str, slurm: Mapping[str, Any]) -> Submit:
    """What hands a command to submitit: to processes of this host, or to SLURM.

    Args:
        folder: of submitit's own files.
        cluster: ``local`` or ``slurm``.
        slurm: submitit's parameters without their ``slurm_``: ``partition``, ``time``, ….

    Raises:
        EnvironmentLacks: submitit is not installed, or this host has no SLURM.
        BadInput: a parameter that submitit does not know.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise missing_extra("submitit", "sweep") from error
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    except RuntimeError as error:
        raise EnvironmentLacks(
            f"Jobs cannot be submitted to {cluster}: {str(error).rstrip('.?')}.",
            "Run the sweep where sbatch is, or with `cluster=local`.",
        ) from error
    try:
        executor.update_parameters(
            name="mimiq",
            timeout_min=int(slurm.get("time", 24 * 60)),
            **{f"slurm_{key}": value for key, value in slurm.items() if key != "time"},
        )
    except (NameError, TypeError, ValueError) as error:
        raise BadInput(
            f"A parameter for SLURM cannot be used: {' '.join(str(error).split())}.",
            "They are those of submitit, without their slurm_: partition, gpus_per_node, ….",
        ) from error

    def submit(command: Sequence[str], log: Path) -> Job:
        # Ctrl-C is for the sweep, which cancels its jobs: theirs would end in tracebacks.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            job: Job = executor.submit(run_command, list(command), log)
        finally:
            signal.signal(signal.SIGINT, before)
        return job

    return submit


class Sweep:
    """The cells of a plan in a folder, and how each stands.

    Args:
        plan: what to compile.
        out: the folder: a bundle a cell, ``images/`` and ``logs/``.
    """

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan = plan
        self.out = out
        for folder in (out, out / "images", out / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Any] = _read(out / _STATE)
        self.rows = {cell.name: Row(cell.name, out / f"{cell.name}.mimiq") for cell in plan.cells}
        for cell in plan.cells:
            row, known = self.rows[cell.name], self._known.get(cell.name) or {}
            if known.get("command") == list(cell.command) and _is_bundle(row.bundle):
                row.state, row.seconds = "done", known.get("seconds")

    @property
    def failed(self) -> dict[str, str]:
        """By name, why a cell failed."""
        return {row.name: row.error for row in self.rows.values() if row.state == "failed"}

    @property
    def bundles(self) -> list[Path]:
        return [row.bundle for row in self.rows.values() if row.state == "done"]

    def run(
        self, submit: Submit, at_once: int, tell: Callable[[], None], poll_s: float | None = None
    ) -> None:
        """Make what is missing; a cell that fails does not keep others from being made.

        Args:
            submit: hands a command to whom it is run by.
            at_once: so many jobs at a time.
            tell: called whenever a cell stands differently.
        """
        jobs: dict[Cell | Images, Job] = {}
        queue = self._missing()
        try:
            while queue or jobs:
                for work in [work for work in queue if not self._waits(work, queue, jobs)]:
                    if len(jobs) >= at_once:
                        break
                    queue.remove(work)
                    jobs[work] = submit(self._command(work), self._log(work))
                    if isinstance(work, Cell):
                        self.rows[work.name].state = "running"
                        tell()
                for work, job in [item for item in jobs.items() if item[1].done()]:
                    del jobs[work]
                    self._end(work, _outcome(job), queue)
                    tell()
                time.sleep(_POLL_SECONDS if poll_s is None else poll_s)
        except BaseException:
            for job in jobs.values():
                with suppress(Exception):
                    job.cancel()
            raise

    def _missing(self) -> list[Cell | Images]:
        """Sets first, each once, and only those that a missing cell waits for."""
        cells = [cell for cell in self.plan.cells if self.rows[cell.name].state != "done"]
        wanted = dict.fromkeys(cell.images for cell in cells if cell.images)
        sets = [images for images in wanted if not _is_set(self._place(images))]
        return [*sets, *cells]

    def _waits(
        self, work: Cell | Images, queue: Sequence[Cell | Images], jobs: Mapping[Cell | Images, Job]
    ) -> bool:
        images = work.images if isinstance(work, Cell) else None
        return images is not None and (images in queue or images in jobs)

    def _end(self, work: Cell | Images, outcome: Outcome, queue: list[Cell | Images]) -> None:
        if isinstance(work, Images):
            if outcome.code:
                for cell in [of for of in queue if isinstance(of, Cell) and of.images == work]:
                    queue.remove(cell)
                    row = self.rows[cell.name]
                    row.state, row.error = "failed", f"Its images: {outcome.error}"
            return
        row = self.rows[work.name]
        row.state, row.error = ("failed" if outcome.code else "done"), outcome.error
        row.seconds = outcome.seconds
        self._known[work.name] = {"command": list(work.command), **asdict(outcome)}
        write_whole(self.out / _STATE, json.dumps(self._known, indent=1) + "\n")

    def _place(self, images: Images) -> Path:
        return self.out / "images" / images.name

    def _log(self, work: Cell | Images) -> Path:
        kind = "images-" if isinstance(work, Images) else ""
        return self.out / "logs" / f"{kind}{work.name}.txt"

    def _command(self, work: Cell | Images) -> list[str]:
        command = [*program(), *work.command]
        if isinstance(work, Images):
            return [*command, *flag_for("out", self._place(work))]
        if work.images is not None:
            command += flag_for("calibration", self._place(work.images))
        bundle = self.rows[work.name].bundle
        return [*command, *flag_for("force", True), *flag_for("out", bundle)]


def _outcome(job: Job) -> Outcome:
    try:
        found = job.result()
    except Exception as error:  # the job itself was lost: preempted, out of memory, no node
        lines = str(error).strip().splitlines()
        return Outcome(1, f"The job was lost: {lines[-1] if lines else type(error).__name__}", 0.0)
    return found if isinstance(found, Outcome) else Outcome(1, "The job gave no result.", 0.0)


def _is_bundle(path: Path) -> bool:
    try:
        Bundle(path)
    except MimiqError:
        return False
    return True


def _is_set(path: Path) -> bool:
    try:
        CalibrationSet.open(path)
    except MimiqError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""A process that opens one engine and times it on request, over pipes.

``python -m mimiq.runtime.latency.worker`` reads JSON lines on stdin and answers each with one on
stdout: first an engine (``{"path", "backend", "threads", …}``), then any number of
``{"batch", "runs"}``, answered by ``{"seconds": […]}``. It ends when stdin does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

import mimiq.errors
from mimiq.errors import BadInput, EnvironmentLacks, MimiqError
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.latency.measure import Engine, session_runner
from mimiq.runtime.session import Session


class Worker:
    """The parent's end: a process with one open engine.

    Args:
        name: the engine's name, for messages.
        engine: what to open.

    Raises:
        MimiqError: whatever opening it raised, or EnvironmentLacks when the process died.
    """

    def __init__(self, name: str, engine: Engine) -> None:
        self._name = name
        # A pipe for stderr would fill up and stall a talkative library.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            engine.command or [sys.executable, "-m", "mimiq.runtime.latency.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        try:
            answer = self._ask({**asdict(engine), "path": str(engine.path)})
        except BaseException:
            self.close()
            raise
        self.backend = str(answer["backend"])

    def run(self, batch: int, runs: int) -> list[float]:
        """A :data:`mimiq.runtime.latency.measure.Runner`."""
        seconds: list[float] = self._ask({"batch": batch, "runs": runs})["seconds"]
        return seconds

    def close(self) -> None:
        """End the process."""
        process = self._process
        try:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        finally:
            if process.stdout is not None:
                process.stdout.close()
            self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind, problem, next_step = answer["error"]
            error: MimiqError = getattr(mimiq.errors, kind)(problem, next_step)
            raise error
        return answer

    def _death(self) -> EnvironmentLacks:
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return EnvironmentLacks(
            f"The process measuring {self._name} {how}" + (f": {said[-1]}" if said else "."),
            "If memory ran out, measure smaller batches.",
        )


def serve(open_one: Callable[[Engine], Session]) -> None:
    """Serve one parent with engines opened so; see the module's text."""
    # Libraries may print: keep the pipe for answers, and send everything else to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(make: Callable[[], dict[str, Any]]) -> None:
        try:
            message = make()
        except MimiqError as error:
            message = {"error": [type(error).__name__, error.problem, error.next_step]}
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    session: Session | None = None

    def opened() -> dict[str, Any]:
        nonlocal session
        question = json.loads(sys.stdin.readline())
        session = open_one(Engine(**{**question, "path": Path(question["path"])}))
        return {"backend": session.backend}

    answer(opened)
    if session is None:
        return
    run = session_runner(session)

    def timed(line: str) -> dict[str, Any]:
        question = json.loads(line)
        return {"seconds": list(run(question["batch"], question["runs"]))}

    for line in sys.stdin:
        answer(partial(timed, line))


def open_engine(engine: Engine) -> Session:
    """Open a bundle or an ONNX file.

    Raises:
        BadInput: threads were given, and what would run takes none.
        MimiqError: as :func:`mimiq.runtime.open_bundle`.
    """
    options: dict[str, Any] = {} if engine.threads is None else {"threads": engine.threads}
    if engine.path.suffix == ".onnx":
        return open_onnx(engine.path, engine.backend, **options)
    from mimiq.runtime.opening import chosen, open_bundle

    bundle = Bundle(engine.path)
    backend = chosen(bundle, engine.backend)
    if not set(options) <= backend.options:
        raise BadInput(
            f"`threads` is for the CPU, and {bundle.path} would run on {backend.title}.",
            "Leave it out, or add `backend=ort`.",
        )
    return open_bundle(bundle, engine.backend, **options)


def open_onnx(path: Path, backend: str, **options: Any) -> Session:
    """An ONNX file under the backend; where that reads none, ONNX Runtime runs it."""
    from mimiq.runtime.backends import AUTO, backend_named
    from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

    named = None if backend == AUTO else backend_named(backend)
    if named is not None and named.reads_graphs:
        return named.open_graph(path, **options)
    return OnnxRuntimeSession(path, device=AUTO, **options)


if __name__ == "__main__":
    serve(open_engine)

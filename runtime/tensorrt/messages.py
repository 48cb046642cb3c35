"""What parser and builder say: collected, and turned into errors that name node and cause."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimiq.errors import BadInput, BuildFailed, MimiqError, UnsupportedTarget


@dataclass(frozen=True)
class Message:
    """One line of a log; ``severity`` is ``error``, ``warning``, ``info`` or ``verbose``."""

    severity: str
    text: str


def collector(library: Any, messages: MutableSequence[Message]) -> Any:
    """A logger of this library that prints nothing, but appends to ``messages``."""
    severity = library.ILogger.Severity
    names = {
        severity.INTERNAL_ERROR: "error",
        severity.ERROR: "error",
        severity.WARNING: "warning",
        severity.INFO: "info",
        severity.VERBOSE: "verbose",
    }

    class Collector(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, level: Any, text: str) -> None:
            messages.append(Message(names.get(level, "info"), text))

    return Collector()


_capture = threading.Lock()


@contextmanager
def captured_stderr(messages: list[Message]) -> Iterator[None]:
    """Collect what the library's compiler writes to the process's stderr past its logger."""
    with _capture, tempfile.TemporaryFile() as sink:
        with suppress(ValueError, OSError):
            sys.stderr.flush()
        saved = os.dup(2)
        try:
            os.dup2(sink.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            text = sink.read().decode(errors="replace")
            messages += [Message("error", line) for line in text.splitlines() if line.strip()]


# (what a message holds, the error's class, what to do). The first match decides.
_ADVICE: tuple[tuple[str, type[MimiqError], str], ...] = (
    (
        "zero point is not supported",
        UnsupportedTarget,
        "Quantise symmetrically: export again with zero points of 0, or without any.",
    ),
    (
        "UINT8 zero_point",
        UnsupportedTarget,
        "Use int8 activations with zero point 0: uint8 would be read as int8.",
    ),
    (
        "CHECK(is_constant())",
        UnsupportedTarget,
        "Blocks of INT4 weights take floating-point activations: use `int4=True` with "
        "`weight_only=True`, or per-channel weights (`int4=True` alone).",
    ),
    (
        "HW-specific datatypes: fp8",
        UnsupportedTarget,
        "FP8 needs compute capability 8.9 or later: choose such a target, or `int8=True`.",
    ),
    (
        "FP32 GEMM is not supported",
        UnsupportedTarget,
        "Turing (7.5) multiplies no fp32 matrices here: choose compute capability 8.0 or later.",
    ),
    (
        "must have same input types",
        UnsupportedTarget,
        "Give every scale of this product the type of its other operand, and export again.",
    ),
    (
        "Plugin not found",
        UnsupportedTarget,
        "The target has no such operator: export the model again with this version.",
    ),
    (
        "CUDA driver version is insufficient",
        BuildFailed,
        "Install an NVIDIA driver, or build for TensorRT-RTX (`target=rtx`), which needs none.",
    ),
    (
        "workspace limit",
        BuildFailed,
        "Allow a larger workspace.",
    ),
    (
        "out of memory",
        BuildFailed,
        "Lower the largest batch, set a smaller workspace, or free memory.",
    ),
)
_NO_ADVICE = "Choose another precision or target, and report the words above."


def parser_error(path: Path, title: str, parser: Any) -> MimiqError:
    """The error for a graph that the library's ONNX parser refused."""
    if not parser.num_errors:
        return BuildFailed(f"{title} did not parse {path}, without saying why.", _NO_ADVICE)
    error = parser.get_error(0)
    cause = clean(str(error.desc()))
    if "DESERIALIZE" in str(error.code()):
        return BadInput(f"{path} is not a readable ONNX model: {cause}", "Export it again.")
    kind, advice = _advise(cause)
    where = f"node {error.node_name()!r} ({error.node_operator()})"
    return kind(f"{title} refuses {where} of {path.name}: {cause}", advice)


def builder_error(
    path: Path, title: str, messages: Sequence[Message], node: str = ""
) -> MimiqError:
    """The error for a network that parsed, but of which the builder made no engine.

    Args:
        node: the ONNX node at fault, where the caller knows better than the messages.
    """
    errors = [clean(message.text) for message in messages if message.severity == "error"]
    # The driver's absence is logged by every build without a GPU, also by those that succeed.
    errors = [text for text in errors if "cudaError 35" not in text] or errors
    cause = max(errors, key=lambda text: (_advise(text)[1] != _NO_ADVICE, len(text)), default="")
    kind, advice = _advise(cause)
    named = re.search(r"operation '([^']+)'|\[ONNX Layer: ([^\]]+)\]", cause)
    node = node or next((part for part in named.groups() if part), "") if named else node
    where = f" at node {node!r}" if node else ""
    return kind(f"{title} cannot build {path.name}{where}: {cause or 'it gave no reason.'}", advice)


def reinterpreted(path: Path, title: str, messages: Sequence[Message]) -> MimiqError | None:
    """The error for what a parser only warns of, although it changes the numbers: uint8 as int8."""
    node = ""
    for message in messages:
        parsing = re.match(r"(?:.*\] )?Parsing node: (\S+)", message.text)
        node = parsing[1] if parsing else node
        if message.severity == "warning" and "UINT8 zero_point" in message.text:
            where = f" at node {node!r}" if node else ""
            kind, advice = _advise(message.text)
            return kind(f"{title} takes no uint8 quantisation{where} of {path.name}.", advice)
    return None


def _advise(cause: str) -> tuple[type[MimiqError], str]:
    for text, kind, advice in _ADVICE:
        if text in cause:
            return kind, advice
    return BuildFailed, _NO_ADVICE


def clean(text: str) -> str:
    """A builder's message without source locations and the names of its own functions."""
    text = re.sub(r"^I?\w+::\w+: ", "", text.strip())
    text = re.sub(r"Error Code \d+: [\w ]+ \((.*)\)$", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"\[[\w./]+\.(?:cpp|h|hpp):[^\]]*\]:? ?", "", text)
    text = re.sub(r"\s*In [\w:~()]+ at \S+$", "", text)
    text = re.sub(r"^Assertion failed: (.+?): (?=[A-Z])", "", text)
    return " ".join(text.split())

"""A terminal's commands in what files hold: shown, and never sent."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from runtime_models import CLASSES, SIZE, manifest_entries, write_linear_classifier

from mimiq.cli import main
from mimiq.cli.commanding import Command
from mimiq.errors import BadInput
from mimiq.runtime import Bundle
from mimiq.runtime.bundle_writing import add_files, write_bundle

ESCAPE = "\x1b[2J\x1b]0;title\x07\x9b31m"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """One whose texts would clear the screen and rename the window."""
    entries = manifest_entries(name=f"linear{ESCAPE}") | {
        "hardware": {"cpu": ESCAPE},
        "software": {f"numpy{ESCAPE}": ESCAPE},
    }
    model = escaping(write_linear_classifier(tmp_path / "linear.onnx", quantized=True))
    labels = [f"{ESCAPE}{number}" for number in range(CLASSES)]
    return write_bundle(tmp_path / "linear.mimiq", {"model.onnx": model}, entries, labels=labels)


def escaping(graph: Path) -> Path:
    """The graph, its nodes and the tensors between them under such names."""
    model = onnx.load(graph)
    for number, node in enumerate(model.graph.node):
        node.name = f"{ESCAPE}{number}"
        for names in (node.input, node.output):
            names[:] = [n if n in ("images", "logits") else ESCAPE + n for n in names]
    for tensor in model.graph.initializer:
        tensor.name = ESCAPE + tensor.name
    onnx.save(model, graph)
    return graph


def said(command: str, *words: object, exit_code: int = 0) -> Result:
    done = CliRunner().invoke(main, [command, *map(str, words)])
    assert done.exit_code == exit_code, done.output
    assert not {"\x1b", "\x07", "\x9b"} & set(done.output)
    return done


COMMANDS = ("inspect", "report", "eval", "pack", "compare")


@pytest.mark.parametrize(
    ("command", "flags"),
    [*((command, flags) for command in COMMANDS for flags in ([], ["--json"])), ("bench", [])],
)
def test_escape_codes_of_a_bundle(
    bundle: Bundle, command: str, flags: list[str], tmp_path: Path
) -> None:
    words: list[object] = []
    match command:
        case "report":
            words = ["-o", tmp_path / "page.html"]
        case "eval":
            words = [labelled(tmp_path / "images")]
        case "pack":
            words = ["--triton", tmp_path / "models", "--name", "net"]
        case "bench":
            words = ["--batches", 1, "--threads", 1, "--backend", "ort"]
        case "compare":
            words = [shutil.copytree(bundle.path, tmp_path / "other.mimiq")]
    done = said(command, bundle.path, *words, *flags)
    if command in ("inspect", "compare"):
        assert "\\x1b[2J" in done.stdout or "\\u001b[2J" in done.stdout


def labelled(folder: Path) -> Path:
    folder.mkdir()
    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(folder / "a.png")
    (folder / "val.txt").write_text("a.png 0\n")
    return folder


@pytest.mark.parametrize("debug", ["0", "1"])
def test_escape_codes_of_an_operator(
    bundle: Bundle, debug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime repeats its name, and so does Python's traceback of it."""
    graph = write_linear_classifier(tmp_path / "unknown.onnx", operator=ESCAPE)
    said("inspect", graph)
    images = labelled(tmp_path / "images")
    cpu = add_files(bundle, {"model.cpu.onnx": graph}).path
    done = said("eval", cpu, images)  # the other graph is opened
    assert done.stderr.startswith("warning: ")
    assert "\\x1b[2J" in done.stderr
    assert "Opened model.onnx instead" in done.stderr

    monkeypatch.setenv("MIMIQ_DEBUG", debug)
    broken = write_bundle(tmp_path / "broken.mimiq", {"model.onnx": graph}, manifest_entries())
    done = said("eval", broken.path, images, exit_code=BadInput.exit_code)
    assert "\\x1b[2J" in done.stderr
    assert ("Traceback" in done.stderr) == (debug == "1")


def test_a_warning_of_ours_is_said_once() -> None:
    @main.command("warning", cls=Command)
    def warn() -> None:
        logging.getLogger("mimiq.runtime").warning("%s is there.", ESCAPE)
        logging.getLogger("mimiq.runtime").info("nobody asked")

    try:
        done = said("warning")
    finally:
        del main.commands["warning"]
    assert done.stderr.count("is there") == 1
    assert "nobody" not in done.stderr
    assert not logging.getLogger("mimiq").handlers

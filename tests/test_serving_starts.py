"""Servers that start late, do not start, or die: what is served, and what is said."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from compiled import INT8, Compile
from ports import free_ports
from serving_server import START_S, mimiq, needs_server, passed, start, stop, wait_ready

pytestmark = [needs_server, pytest.mark.slow]


@pytest.fixture(scope="module")
def bundle(compile_digits: Compile) -> Path:
    return compile_digits(*INT8).path


@pytest.fixture
def repository(bundle: Path, tmp_path: Path) -> Path:
    passed("pack", bundle, "--triton", tmp_path / "models", "--name", "digits")
    return tmp_path / "models"


def test_a_server_that_only_starts_is_waited_for_and_one_that_dies_is_not(
    repository: Path, bundle: Path
) -> None:
    ports = free_ports(2)
    ask = ("check", "--url", f"127.0.0.1:{ports[0]}", "--model", "digits", "--bundle", bundle)
    with socket.create_server(("127.0.0.1", ports[0])) as nobody:
        early = subprocess.Popen(
            [sys.executable, "-m", "mimiq", *ask, "--eval-limit", "8", "--wait", str(START_S)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        nobody.settimeout(START_S)
        nobody.accept()[0].close()  # it asks, and there is no server yet
    running = start(repository, ports)
    try:
        said, _ = early.communicate(timeout=START_S)
        assert early.returncode == 0, said
        assert "The deployed model is the compiled one." in said
        wait_ready(running, "digits")
        killer = threading.Timer(2.0, running.process.kill)
        killer.start()
        answer = mimiq(
            *("check", "--url", running.grpc, "--protocol", "grpc", "--model", "digits"),
            *("--bundle", bundle, "--eval-limit", 8, "--load", "2", "--seconds", "60"),
            *("--timeout", 10),
        )
        killer.join()
        assert answer.exit_code == 6, answer.output
        assert f"No grpc inference server answers at {running.grpc}" in answer.stderr
        assert "Traceback" not in answer.stderr
    finally:
        early.kill()
        stop(running)


def test_a_port_in_use_ends_the_server(repository: Path) -> None:
    """That of the metrics, which nobody names when they start a second server."""
    http, grpc, metrics = free_ports(3)
    with socket.create_server(("127.0.0.1", metrics)):
        running = start(repository, [http, grpc], metrics=metrics)
        try:
            running.process.wait(START_S)
            assert "address already in use" in running.log.read_text().lower()
        finally:
            stop(running)


def test_a_damaged_model_is_not_served(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    passed("pack", bundle, "--triton", folder, "--name", "damaged")
    model = folder / "damaged" / "1" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 0xFF
    model.write_bytes(content)
    running = start(folder)
    try:
        running.process.wait(START_S)  # it ends when a model cannot be loaded at its start
        assert "size or hash differ" in running.log.read_text()
    finally:
        stop(running)


def test_a_bundle_whose_manifest_was_edited_is_not_served(bundle: Path, tmp_path: Path) -> None:
    """Served as it is, not packed: what MLServer is told stands in a file of one's own."""
    folder = tmp_path / "models"
    shutil.copytree(bundle, folder / "digits.mimiq")
    manifest = folder / "digits.mimiq" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    settings = {
        "name": "digits",
        "implementation": "mimiq.runtime.mlserver_runtime.MimiqRuntime",
        "parameters": {"uri": "digits.mimiq"},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    running = start(folder)
    try:
        running.process.wait(START_S)
        assert "was edited: its content does not match" in running.log.read_text()
    finally:
        stop(running)


def test_a_bundle_is_served_by_the_backend_that_the_settings_name(bundle: Path) -> None:
    """In a process of its own, as MLServer loads it: names of its protocol are taken here."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    program = """
import asyncio, sys
from mlserver import ModelSettings
from mlserver.errors import MLServerError
from mlserver.settings import ModelParameters
from mimiq.runtime.mlserver_runtime import MimiqRuntime

for extra in ({"backend": "openvino", "streams": 2}, {"backend": "null", "threads": 1}):
    runtime = MimiqRuntime(ModelSettings(
        name="digits",
        implementation="mimiq.runtime.mlserver_runtime.MimiqRuntime",
        parameters=ModelParameters(uri=sys.argv[1], extra=extra),
    ))
    try:
        asyncio.run(runtime.load())
        print(runtime.settings.platform)
    except MLServerError as error:
        print(error)
    print("unloaded:", asyncio.run(runtime.unload()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == "mimiq_openvino-cpu"
    assert "takes no 'threads'" in " ".join(rest)
    # Whether it was loaded or not.
    assert [line for line in rest if "unloaded" in line] == ["unloaded: True"] * 2

"""A bundle served by MLServer in a process of its own, on loopback and free ports.

The server and ``tritonclient`` register the same protobuf names, so one process cannot hold both.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ports import free_ports

from mimiq.errors import EnvironmentLacks
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.serving.readiness import wait_until_ready
from mimiq.runtime.serving.v2_client import Protocol, V2Client

MODEL_NAME = "model"
_START_S = 180.0  # on a busy machine it takes a while to import
_STOP_S = 30.0
_START = "from mlserver.cli import main; main()"


@contextmanager
def served(
    bundle: Bundle,
    folder: Path,
    extra: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    protocol: Protocol = "grpc",
    workers: int = 1,
) -> Iterator[str]:
    """Serve a bundle as long as the block lasts, and give the ``HOST:PORT`` to ask.

    Args:
        bundle: what to serve.
        folder: a new one, for the settings and the server's log.
        extra: what ``open_bundle`` takes beside the path.
        settings: of ``model-settings.json`` beside those that name the bundle.
        protocol: ``http`` or ``grpc``.
        workers: processes beside the server's own, as MLServer's ``parallel_workers``.

    Raises:
        EnvironmentLacks: the server ended, or the model was not ready in three minutes.
    """
    http, grpc = free_ports(2)
    folder.mkdir(parents=True)
    model = model_settings(bundle.path, extra, settings)
    (folder / "model-settings.json").write_text(json.dumps(model))
    server = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc}
    server |= {"metrics_endpoint": None, "parallel_workers": workers, "debug": False}
    (folder / "settings.json").write_text(json.dumps(server))
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", _START, "start", "."],
            cwd=folder,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    url = f"127.0.0.1:{grpc if protocol == 'grpc' else http}"
    try:
        with V2Client(url, protocol) as client:
            wait_until_ready(client, MODEL_NAME, "", _START_S)
            if process.poll() is not None or not client.model_ready(MODEL_NAME):
                raise EnvironmentLacks(
                    f"MLServer does not serve {bundle.path}: {log.read_text()[-2000:]}",
                    "Serve it by hand, as docs/serving.md describes, and read its log.",
                )
        yield url
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def model_settings(
    bundle: Path, extra: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The ``model-settings.json`` that serves a bundle as it is."""
    return {
        "name": MODEL_NAME,
        "implementation": "mimiq.runtime.mlserver_runtime.MimiqRuntime",
        "parameters": {"uri": str(bundle.resolve()), "extra": dict(extra)},
        **settings,
    }

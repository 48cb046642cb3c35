"""MLServer in a process of its own, on loopback and free ports.

The server and the client register the same protobuf names, so they cannot share a process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from figures import resident_bytes
from ports import free_ports

from mimiq.cli import main
from mimiq.errors import EnvironmentLacks

_MISSING = [name for name in ("mlserver", "tritonclient") if find_spec(name) is None]
needs_server = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")
START_S = 120  # on a busy machine it takes a while to import


@dataclass(frozen=True)
class Server:
    """A running MLServer: its process, its addresses and its log."""

    process: subprocess.Popen[bytes]
    http: str
    grpc: str
    log: Path

    def url(self, protocol: str) -> str:
        return self.http if protocol == "http" else self.grpc

    def memory(self) -> int:
        """Resident bytes, of the workers as well."""
        return sum(self.memory_of_each().values())

    def memory_of_each(self) -> dict[int, int]:
        """Resident bytes by process id: the server's own, then the workers'."""
        return {pid: resident_bytes(pid) for pid in (self.process.pid, *self.workers())}

    def workers(self) -> list[int]:
        """Process ids of the workers, oldest first; not those that multiprocessing counts with."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children.split()}
        return [int(pid) for pid, words in commands.items() if "spawn_main" in words]


def start(
    repository: Path,
    ports: list[int] | None = None,
    workers: int = 0,
    metrics: int | None = None,
) -> Server:
    """Serve a repository; ``workers`` are processes beside the server's own, as MLServer has them.

    By default there are none: they cost a test several seconds. Nor are there ``metrics``, a port.
    """
    http, grpc = ports or free_ports(2)
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_endpoint": None if metrics is None else "/metrics",
        "metrics_port": metrics or 8082,
        "parallel_workers": workers,
        "debug": False,
    }
    (repository / "settings.json").write_text(json.dumps(settings))
    log = repository.with_name(f"{repository.name}-{http}.log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", "from mlserver.cli import main; main()", "start", "."],
            cwd=repository,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    return Server(process, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)


def wait_ready(server: Server, *models: str) -> None:
    from mimiq.runtime.serving.v2_client import V2Client

    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log.read_text()
        try:
            for protocol in ("http", "grpc"):
                with V2Client(server.url(protocol), protocol, 5) as client:  # type: ignore[arg-type]
                    if not all(client.model_ready(model) for model in models):
                        raise EnvironmentLacks("not yet")
            return
        except EnvironmentLacks:
            time.sleep(0.3)
    pytest.fail(f"no server after {START_S} s:\n{server.log.read_text()}")


def stop(server: Server) -> None:
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait(20)


def mimiq(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def passed(*arguments: object) -> dict[str, Any]:
    answer = mimiq(*arguments, "--json")
    assert answer.exit_code == 0, answer.stderr
    result: dict[str, Any] = json.loads(answer.stdout)
    return result


def malformed(number: int) -> dict[str, np.ndarray[Any, Any]]:
    """A request that the digits' server must refuse: of another shape, type, name or batch."""
    return [
        {"images": np.zeros((1, 3, 31, 32), np.float32)},
        {"images": np.zeros((1, 3, 32, 32), np.float64)},
        {"pictures": np.zeros((1, 3, 32, 32), np.float32)},
        {"images": np.zeros((65, 3, 32, 32), np.float32)},
    ][number % 4]

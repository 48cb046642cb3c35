"""MLServer with worker processes, as it has them by default, and a port that another server has.

pytest -n 0 --nightly tests/nightly/test_ports_taken.py
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from compiled import CHEAP, Compile
from ports import free_ports
from serving_server import START_S, mimiq, needs_server, passed, start

pytestmark = [
    needs_server,
    pytest.mark.nightly,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc"),
]


@pytest.mark.parametrize("taken", ["http", "grpc", "metrics"])
def test_what_the_guide_says_of_a_port_that_is_taken(
    compile_digits: Compile, tmp_path: Path, taken: str
) -> None:
    """It neither serves nor ends, and says why in its log."""
    bundle = compile_digits("--int8", *CHEAP).path
    passed("pack", bundle, "--triton", tmp_path / "models", "--name", "digits")
    ports = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True))
    http, grpc, metrics = ports.values()
    with socket.create_server(("127.0.0.1", ports[taken])):
        server = start(tmp_path / "models", [http, grpc], workers=1, metrics=metrics)
        try:
            ask = ("check", "--url", server.http, "--model", "digits", "--bundle", bundle)
            answer = mimiq(*ask, "--wait", 15, "--timeout", 5)
            assert answer.exit_code == 6, answer.output
            assert "address already in use" in server.log.read_text().lower()
            server.process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(10)
        finally:
            children = server.workers() if server.process.poll() is None else []
            server.process.kill()
            server.process.wait(START_S)
            for child in children:
                os.kill(child, signal.SIGKILL)

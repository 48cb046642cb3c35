"""Ports that are slow, or another's: ``check`` ends in time, and says that no server answers."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import pytest
from click.testing import CliRunner
from runtime_models import CLASSES, SIZE, MakeBundle

from mimiq.cli import main
from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime.serving.check import check_server
from mimiq.runtime.serving.readiness import wait_until_ready
from mimiq.runtime.serving.v2_client import V2Client
from mimiq.runtime.serving.wanted import Wanted

pytestmark = pytest.mark.skipif(
    find_spec("tritonclient") is None, reason="not installed: tritonclient"
)
Serve = Callable[[socket.socket], object]
LIVE = {"/v2/health/live": (200, b"")}


@contextlib.contextmanager
def listening(serve: Serve) -> Iterator[str]:
    """A port; each connection is served in a thread of its own."""

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = port.accept()
                threading.Thread(target=served, args=(connection,), daemon=True).start()

    def served(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection)

    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen()
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{port.getsockname()[1]}"


def silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def a_byte_at_a_time(connection: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b" " * 9999:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def headers_without_end(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-Next: " + b"x" * 60_000 + b"\r\n")


def body_without_end(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"[" * 60_000)


def answering(
    status: int, body: bytes = b"", paths: Mapping[str, tuple[int, bytes]] = MappingProxyType({})
) -> Serve:
    """Each request with what its path has, or else with this."""

    def serve(connection: socket.socket) -> None:
        path = connection.recv(65_536).split()[1].decode()
        found, text = paths.get(path, (status, body))
        head = f"HTTP/1.1 {found} Said\r\nLocation: /\r\nContent-Length: {len(text)}\r\n\r\n"
        connection.sendall(head.encode() + text)

    return serve


def ready_and_then(serve: Serve) -> Serve:
    """A server whose model is ready, and which serves a run of it so."""
    images = {"name": "images", "datatype": "FP32", "shape": [-1, 3, SIZE, SIZE]}
    logits = {"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}
    said = {"name": "net", "versions": ["1"], "inputs": [images], "outputs": [logits]}
    paths = {"/v2/models/net": (200, json.dumps(said).encode()), "/v2/models/net/ready": (200, b"")}
    others = answering(200, b"{}", LIVE | paths)

    def either(connection: socket.socket) -> None:
        posted = connection.recv(4, socket.MSG_PEEK) == b"POST"
        (serve if posted else others)(connection)

    return either


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("serve", [silent, a_byte_at_a_time])
def test_a_slow_port_is_given_up_in_time(protocol: Any, serve: Serve) -> None:
    with listening(serve) as url, V2Client(url, protocol, 60) as client:
        start = time.monotonic()
        with pytest.raises(EnvironmentLacks, match=f"No {protocol} inference server answers"):
            client.live(0.5)
        wait_until_ready(client, "net", "", 0.5)
        assert time.monotonic() - start < 4


@pytest.mark.parametrize("serve", [headers_without_end, body_without_end])
def test_an_answer_without_end_is_not_kept(make_bundle: MakeBundle, serve: Serve) -> None:
    start = time.monotonic()
    with listening(serve) as url, pytest.raises(EnvironmentLacks, match="No http inference"):
        check_server(make_bundle(), Wanted(url, "net"))
    assert time.monotonic() - start < 4


def test_a_run_without_end_is_given_up_in_time(make_bundle: MakeBundle) -> None:
    """The timeout counts from the first byte to the last, not from one to the next."""
    start = time.monotonic()
    with (
        listening(ready_and_then(a_byte_at_a_time)) as url,
        pytest.raises(EnvironmentLacks, match="running the model net"),
    ):
        check_server(make_bundle(), Wanted(url, "net", timeout_s=1))
    assert time.monotonic() - start < 10


def test_the_default_timeout_is_not_that_of_a_question(make_bundle: MakeBundle) -> None:
    start = time.monotonic()
    with listening(silent) as url, pytest.raises(EnvironmentLacks, match="within 5 s"):
        check_server(make_bundle(), Wanted(url, "net", timeout_s=60))
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"nope"),
        (401, b'{"error": "log in"}'),
        (302, b""),
        (500, b"x" * 300_000),
        (204, b""),
        (400, b"<html>"),
        (503, b"<html>no backend</html>"),
    ],
)
def test_a_server_of_another_kind_is_none(
    make_bundle: MakeBundle, status: int, body: bytes
) -> None:
    nobody = "No http inference server answers"
    with listening(answering(status, body)) as url, pytest.raises(EnvironmentLacks, match=nobody):
        check_server(make_bundle(), Wanted(url, "net"))


@pytest.mark.parametrize(
    ("status", "body"), [(400, b""), (503, b'{"error": "not live"}'), (400, b'{"live": false}')]
)
def test_a_server_that_says_that_it_is_not_live(status: int, body: bytes) -> None:
    with listening(answering(status, body)) as url, V2Client(url) as client:
        assert client.live() is False


@pytest.mark.parametrize(
    "body",
    [
        {"versions": 7, "inputs": [{"name": "x"}], "outputs": 5},
        {"inputs": [{"name": "images", "datatype": "FP32", "shape": 3}]},
        {"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, None]}]},
        {"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 1e999]}]},
        {"inputs": ["images"]},
        [],
    ],
)
def test_a_description_that_is_none(make_bundle: MakeBundle, body: Any) -> None:
    serve, wrong = answering(200, json.dumps(body).encode(), LIVE), "is not the protocol's"
    with listening(serve) as url, pytest.raises(EnvironmentLacks, match=wrong):
        check_server(make_bundle(), Wanted(url, "net"))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("url", ["::1:18080", "localhost:１８０８０", "loc\udcffal:80", "a b:80"])
def test_what_is_no_address(url: str, protocol: Any) -> None:
    with pytest.raises(BadInput, match="is no address"):
        V2Client(url, protocol)


def test_an_address_of_ipv6() -> None:
    with V2Client("[::1]:1") as client, pytest.raises(EnvironmentLacks, match="answers at"):
        client.live()


@pytest.mark.parametrize("flag", ["--model", "--model-version"])
def test_a_name_that_is_no_text_is_wrong_usage(make_bundle: MakeBundle, flag: str) -> None:
    words = ["check", "--url", "localhost:1", "--model", "net", "--bundle", str(make_bundle().path)]
    answer = CliRunner().invoke(main, [*words, flag, "\udcff"])
    assert answer.exit_code == 2, answer.output
    assert "is no name of a" in answer.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "word", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_a_signal_while_the_server_is_asked_is_one_line(
    make_bundle: MakeBundle, number: signal.Signals, word: str, code: int
) -> None:
    running = threading.Event()

    def serve(connection: socket.socket) -> None:
        running.set()
        silent(connection)

    with listening(ready_and_then(serve)) as url:
        ask = ["check", "--url", url, "--model", "net", "--backend", "ort", "--quiet"]
        process = subprocess.Popen(
            [sys.executable, "-m", "mimiq", *ask, "--bundle", str(make_bundle().path)],
            stderr=subprocess.PIPE,
            text=True,
            # A run in the background inherits that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert running.wait(60)
        time.sleep(0.3)  # until it waits for the answer
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
    assert process.returncode == code
    assert said.startswith(f"{word}; ")
    assert len(said.splitlines()) == 1

"""The check of a deployed model, as far as it needs no server; see tests/test_serving.py."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from runtime_models import CLASSES, SIZE, MakeBundle

from mimiq.errors import BadInput, CheckFailed, EnvironmentLacks
from mimiq.runtime.latency.load import put_under_load
from mimiq.runtime.opening import open_bundle
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.serving.check import CheckResult, check_server, metadata_differences
from mimiq.runtime.serving.descriptions import ServedModel
from mimiq.runtime.serving.endpoint import comparison_batch
from mimiq.runtime.serving.packed import Tensor
from mimiq.runtime.serving.probes import probe_images
from mimiq.runtime.serving.v2_client import V2Client
from mimiq.runtime.serving.wanted import Wanted

needs_client = pytest.mark.skipif(
    find_spec("tritonclient") is None, reason="not installed: tritonclient"
)
IMAGES = Tensor("images", "FP32", (3, SIZE, SIZE))
LOGITS = Tensor("logits", "FP32", (CLASSES,))
SERVED = ServedModel("net", "onnxruntime_onnx", ("1",), (IMAGES,), (LOGITS,), {})


def test_what_the_manifest_says_is_no_difference(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    pixels = Tensor("pixels", "UINT8", (SIZE, SIZE, 3))
    top = Tensor("top_classes", "INT64", (5,))
    for served in (
        SERVED,
        replace(SERVED, inputs=(pixels,)),
        replace(SERVED, outputs=(LOGITS, top)),
    ):
        assert metadata_differences(bundle, served) == []


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": (replace(IMAGES, name="input"),)},
        {"inputs": (replace(IMAGES, datatype="FP16"),)},
        {"inputs": (replace(IMAGES, shape=(3, SIZE, SIZE + 1)),)},
        {"inputs": (IMAGES, IMAGES)},
        {"inputs": (Tensor("pixels", "UINT8", (SIZE + 1, SIZE, 3)),)},
        {"outputs": (replace(LOGITS, shape=(CLASSES + 1,)),)},
        {"outputs": (replace(LOGITS, name="scores"),)},
        {"outputs": ()},
    ],
)
def test_every_other_description_is_one(make_bundle: MakeBundle, change: dict[str, Any]) -> None:
    (failure,) = metadata_differences(make_bundle(), replace(SERVED, **change))
    assert "the bundle" in failure


def test_probes_are_the_same_each_time_and_the_bundle_is_sure_of_them(
    make_bundle: MakeBundle,
) -> None:
    bundle = make_bundle()
    with open_bundle(bundle, "ort") as session:
        first = probe_images(session, bundle.preprocessing)
        second = probe_images(session, bundle.preprocessing)
        logits = session.run(first.images)
    np.testing.assert_array_equal(first.images, second.images)
    assert len(first) == 64
    np.testing.assert_array_equal(logits.argmax(1), first.labels)
    assert len(set(first.labels.tolist())) > 1
    ordered = np.sort(logits, axis=1)
    assert (ordered[:, -1] - ordered[:, -2]).min() > 0.02 * logits.std()


@pytest.mark.parametrize(
    ("protocol", "tensor", "asked", "sent"),
    [
        ("http", Tensor("images", "FP32", (3, 224, 224)), 32, 32),
        ("grpc", Tensor("images", "FP32", (3, 224, 224)), 32, 6),
        ("grpc", Tensor("images", "FP32", (3, 224, 224)), 4, 4),
        ("grpc", Tensor("pixels", "UINT8", (224, 224, 3)), 32, 27),
        ("grpc", Tensor("images", "FP32", (3, 1024, 1024)), 8, 1),
    ],
)
def test_a_comparison_fits_into_the_messages_of_grpc(
    protocol: Any, tensor: Tensor, asked: int, sent: int
) -> None:
    wanted = Wanted("host:1", "net", protocol=protocol, batch_size=asked)
    assert comparison_batch(wanted, replace(SERVED, inputs=(tensor,))) == sent


def test_pixels_come_back_exactly() -> None:
    preprocessing = Preprocessing(image_size=16, crop_pct=1.0)
    pixels = np.arange(16 * 16 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(
        preprocessing.denormalize(preprocessing.normalize(pixels)), pixels
    )


def test_failures_become_one_error() -> None:
    result = CheckResult(SERVED, "images")
    result.require()
    result.failures += ["One.", "Two."]
    with pytest.raises(CheckFailed, match=r"net failed the check: One\. Two\."):
        result.require()
    assert result.to_json()["passed"] is False


def test_load_counts_clients_requests_and_wrong_answers() -> None:
    lock, active, most = threading.Lock(), [0], [0]
    closed = []

    def connect() -> tuple[Any, Any]:
        def ask(number: int) -> bool:
            with lock:
                active[0] += 1
                most[0] = max(most[0], active[0])
            threading.Event().wait(0.002)
            with lock:
                active[0] -= 1
            return number % 2 == 0

        return ask, lambda: closed.append(1)

    rows = put_under_load(connect, (1, 4), 0.2)
    assert [row.clients for row in rows] == [1, 4]
    assert most[0] == 4
    assert len(closed) == 5
    for row in rows:
        assert 2.0 <= row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.throughput <= row.clients * 1000 / 2.0 + 1
        assert 0 < row.wrong < row.requests or row.requests == 1


def test_one_client_that_fails_ends_the_load() -> None:
    asked = []

    def connect() -> tuple[Any, Any]:
        def ask(number: int) -> bool:
            asked.append(number)
            if len(asked) > 20:
                raise EnvironmentLacks("gone", "")
            return True

        return ask, lambda: None

    with pytest.raises(EnvironmentLacks, match="gone"):
        put_under_load(connect, (3,), 60)


def test_a_client_that_is_never_warm_is_an_error_of_the_server() -> None:
    connected, closed = [], []

    def connect() -> tuple[Any, Any]:
        connected.append(1)
        if len(connected) == 2:
            time.sleep(0.5)
        return lambda _: True, lambda: closed.append(1)

    with pytest.raises(EnvironmentLacks, match=r"did not answer 3 clients within 0\.2 s") as caught:
        put_under_load(connect, (3,), 60, timeout_s=0.05)
    assert "fewer clients" in caught.value.next_step
    assert len(closed) == 3


@pytest.mark.parametrize("clients", [(), (0,), (257,)])
def test_load_out_of_range(clients: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="out of range"):
        put_under_load(lambda: (lambda _: True, lambda: None), clients, 1)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_seconds_of_load_are_finite_and_above_0(seconds: float) -> None:
    with pytest.raises(BadInput, match="cannot last"):
        put_under_load(lambda: (lambda _: True, lambda: None), (1,), seconds)


@needs_client
@pytest.mark.parametrize("url", ["localhost", "http://localhost:1/", "localhost:0", ":8000"])
def test_no_address(url: str) -> None:
    with pytest.raises(BadInput, match="is no address"):
        V2Client(url)


@needs_client
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_listens(make_bundle: MakeBundle, protocol: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        wanted = Wanted(f"127.0.0.1:{unused.getsockname()[1]}", "net", protocol=protocol)
    with pytest.raises(EnvironmentLacks, match=f"No {protocol} inference server answers"):
        check_server(make_bundle(), replace(wanted, timeout_s=5))


@needs_client
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_never_answers(make_bundle: MakeBundle, protocol: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        wanted = Wanted(url, "net", protocol=protocol, timeout_s=0.5)
        with pytest.raises(EnvironmentLacks, match="inference server answers"):
            check_server(make_bundle(), wanted)


def test_a_limit_without_load_is_refused(make_bundle: MakeBundle) -> None:
    from mimiq.cli import main

    answer = CliRunner().invoke(
        main,
        ["check", "--url", "h:1", "--model", "m", "--bundle", "b", "--p99-ms", "5"],
    )
    assert answer.exit_code == 2
    assert "--p99-ms needs a load" in answer.stderr


@contextlib.contextmanager
def _answering(reply: bytes) -> Iterator[str]:
    """A server that says this to whoever connects, whatever is asked."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(reply)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


GRPC_SETTINGS = bytes.fromhex("000018040000000000") + bytes(24)


@needs_client
@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        ("http", GRPC_SETTINGS),
        ("http", b"SSH-2.0-OpenSSH\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        ("grpc", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    ],
    ids=["grpc", "ssh", "a web page", "http"],
)
def test_another_kind_of_server_answers_there(
    make_bundle: MakeBundle, protocol: Any, reply: bytes
) -> None:
    with _answering(reply) as url:
        wanted = Wanted(url, "net", protocol=protocol, timeout_s=5)
        with pytest.raises(EnvironmentLacks, match=f"No {protocol} inference server answers"):
            check_server(make_bundle(), wanted)

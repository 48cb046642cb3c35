"""Pack → serve → check: a real V2 server in a process of its own, asked over HTTP and gRPC.

MLServer serves the repository that ``mimiq pack`` wrote; the same client code speaks to Triton.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from compiled import INT8, Compile
from malformed_bodies import MALFORMED, Malformed, good
from serving_server import (
    Server,
    malformed,
    mimiq,
    needs_server,
    passed,
    start,
    stop,
    wait_ready,
)

from mimiq.runtime.bundle import Bundle
from mimiq.runtime.opening import open_bundle

pytestmark = [needs_server, pytest.mark.slow]

# By hand, 2 × 10 000: MIMIQ_SOAK_REQUESTS=10000 pytest tests/test_serving.py -k soak
SOAK_REQUESTS = int(os.environ.get("MIMIQ_SOAK_REQUESTS", "150"))  # of each of two clients


@pytest.fixture(scope="module")
def bundle(compile_digits: Compile) -> Path:
    return compile_digits(*INT8).path


@pytest.fixture(scope="module")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "models"
    passed("pack", bundle, "--triton", folder, "--name", "digits")
    passed("pack", bundle, "--triton", folder, "--name", "pixels", "--preprocess", "--top-k", 3)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    running = start(repository)
    try:
        wait_ready(running, "digits", "pixels")
        yield running
    finally:
        stop(running)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("model", ["digits", "pixels"])
def test_the_served_model_passes_the_check(
    server: Server, bundle: Path, protocol: str, model: str
) -> None:
    result = passed(
        *("check", "--url", server.url(protocol), "--protocol", protocol, "--model", model),
        *("--bundle", bundle, "--eval-limit", 100),
        *("--load", "1,4", "--seconds", "0.5"),
    )
    assert result["passed"]
    assert result["identity"] == "same"
    assert result["version"] == "1"
    assert result["compared_with"] == "onnxruntime-cpu"  # as it is served, whatever auto takes
    assert result["comparison"]["agreeing"] == result["comparison"]["accuracy"]["count"] == 100
    # The same runtime on the same host: not one bit may differ on the way.
    assert result["comparison"]["max_logit_difference"] < 1e-5
    assert [row["clients"] for row in result["load"]] == [1, 4]
    assert all(row["wrong"] == 0 and row["requests"] >= 4 for row in result["load"])
    assert all(0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] for row in result["load"])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_version_that_the_metadata_names_is_served(
    server: Server, bundle: Path, protocol: str
) -> None:
    ask = ("check", "--url", server.url(protocol), "--protocol", protocol, "--model", "digits")
    result = passed(*ask, "--bundle", bundle, "--eval-limit", 10, "--model-version", "1")
    assert result["version"] == "1"
    answer = mimiq(*ask, "--bundle", bundle, "--eval-limit", 10, "--model-version", "9")
    assert answer.exit_code != 0
    assert "Traceback" not in answer.output


def test_a_table_for_people(server: Server, bundle: Path) -> None:
    answer = mimiq(
        *("check", "--url", server.grpc, "--protocol", "grpc", "--model", "digits"),
        *("--bundle", bundle, "--eval-limit", 20),
    )
    assert answer.exit_code == 0, answer.stderr
    assert "packed from this bundle" in answer.stdout
    assert "The deployed model is the compiled one." in answer.stdout


def test_another_bundle_is_not_the_deployed_one(
    server: Server, bundle: Path, tmp_path: Path
) -> None:
    """The same graph with one weight tensor's bytes changed, and a valid manifest around it."""
    other = _with_other_weights(bundle, tmp_path)
    answer = mimiq(
        *("check", "--url", server.grpc, "--protocol", "grpc", "--model", "digits"),
        *("--bundle", other, "--json"),
    )
    assert answer.exit_code == 7, answer.stderr
    result = json.loads(answer.stdout)
    assert result["identity"] == "different"
    assert not result["passed"]
    text = " ".join(result["failures"])
    assert "was packed from the bundle" in text
    assert "agrees with the bundle on" in text


def _with_other_weights(bundle: Path, folder: Path) -> Path:
    import onnx
    from onnx import numpy_helper

    from mimiq.runtime.bundle_writing import write_bundle

    model = onnx.load(bundle / "model.onnx")
    generator = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 2 and array.dtype == np.int8:
            shuffled = generator.permutation(array.ravel()).reshape(array.shape)
            tensor.CopyFrom(numpy_helper.from_array(shuffled, tensor.name))
    onnx.save(model, folder / "other.onnx")
    opened = Bundle(bundle)
    manifest = {k: v for k, v in opened.manifest.items() if k not in ("files", "manifest_sha256")}
    written = write_bundle(
        folder / "other.mimiq",
        {"model.onnx": folder / "other.onnx"},
        manifest,
        labels=opened.labels,
    )
    return written.path


def test_a_limit_that_is_missed_fails(server: Server, bundle: Path) -> None:
    answer = mimiq(
        *("check", "--url", server.http, "--model", "digits", "--bundle", bundle),
        *("--eval-limit", 8, "--load", "2", "--seconds", "0.2", "--p99-ms", "0.001"),
    )
    assert answer.exit_code == 7
    assert "99th percentile" in answer.stderr


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_unknown_model_is_one_clear_error(server: Server, bundle: Path, protocol: str) -> None:
    answer = mimiq(
        *("check", "--url", server.url(protocol), "--protocol", protocol),
        *("--model", "nobody", "--bundle", bundle),
    )
    assert answer.exit_code == 7
    assert "nobody" in answer.stderr
    assert "not found" in answer.stderr
    assert "Traceback" not in answer.stderr


_WHY = ("is float32", "is float64", "no input 'pictures'", "The batch is 65")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("number", range(4))
def test_malformed_requests_are_told_what_is_wrong(
    server: Server, protocol: Any, number: int
) -> None:
    from mimiq.runtime.serving.v2_client import RequestRefused, V2Client

    with (
        V2Client(server.url(protocol), protocol) as client,
        pytest.raises(RequestRefused) as caught,
    ):
        client.infer("digits", malformed(number), ["logits"])
    assert _WHY[number] in caught.value.problem
    assert "takes" in caught.value.problem


def _posted(
    server: Server, model: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, str]:
    """The status, and what is said."""
    connection = http.client.HTTPConnection(server.http, timeout=30)
    where, kind = f"/v2/models/{model}/infer", {"Content-Type": "application/json"}
    connection.request("POST", where, body, {**kind, **headers})
    answer = connection.getresponse()
    text = answer.read().decode("utf-8")
    connection.close()
    return answer.status, text


def _said(text: str) -> str:
    """The message of an answer: mimiq's, one of MLServer's own checks, or of the HTTP library."""
    if not text.startswith("{"):
        return text
    found = json.loads(text)
    if "detail" not in found:
        return str(found["error"])
    detail = found["detail"]
    return detail if isinstance(detail, str) else str(detail[0]["msg"])


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_body_is_refused_and_the_next_request_answered(
    server: Server, case: Malformed
) -> None:
    status, text = _posted(server, "digits", case.body, case.headers)
    assert status == case.status, text
    assert case.says in _said(text)
    assert len(_said(text).splitlines()) == 1
    status, text = _posted(server, "digits", json.dumps(good()).encode())
    assert status == 200, text


def test_a_client_that_leaves_in_the_middle_of_its_body(server: Server) -> None:
    host, _, port = server.http.rpartition(":")
    body = json.dumps(good()).encode()
    head = (
        f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body) + 1}"
    )
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(head.encode() + b"\r\nContent-Type: application/json\r\n\r\n" + body)
    status, text = _posted(server, "digits", body)
    assert status == 200, text


def test_nan_over_grpc(server: Server) -> None:
    from mimiq.runtime.serving.v2_client import RequestRefused, V2Client

    images = np.full((1, 3, 32, 32), np.nan, np.float32)
    with (
        V2Client(server.url("grpc"), "grpc") as client,
        pytest.raises(RequestRefused, match="NaN or infinity"),
    ):
        client.infer("digits", {"images": images}, ["logits"])


def test_floats_are_not_cut_off_to_pixels(server: Server) -> None:
    for value, wanted, words in (
        (0.5, 400, "are floats, and it takes UINT8"),
        (300, 400, "are not UINT8 of shape"),
        ("7", 400, "are texts, and it takes numbers (UINT8)"),
        (128, 200, ""),
    ):
        data = [value] * (32 * 32 * 3)
        body = good(name="pixels", datatype="UINT8", shape=[1, 32, 32, 3], data=data)
        status, text = _posted(server, "pixels", json.dumps(body).encode())
        assert status == wanted
        assert words in text


def test_binary_tensors_over_http_as_the_guide_says(server: Server) -> None:
    """MLServer takes none; ``tritonclient`` sends them unless it is told otherwise."""
    import tritonclient.http as v2
    from tritonclient.utils import InferenceServerException

    guide = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    assert "`images.set_data_from_numpy(pixels, binary_data=False)`" in guide
    assert "`InferRequestedOutput(name, binary_data=False)`" in guide
    pixels, name = np.zeros((1, 32, 32, 3), np.uint8), "logits"
    images = v2.InferInput("pixels", pixels.shape, "UINT8")
    with contextlib.closing(v2.InferenceServerClient(server.http)) as client:
        images.set_data_from_numpy(pixels)
        with pytest.raises(InferenceServerException) as caught:
            client.infer("pixels", [images], outputs=[v2.InferRequestedOutput(name)])
        assert caught.value.status() == "422"
        images.set_data_from_numpy(pixels, binary_data=False)
        wanted = [v2.InferRequestedOutput(name, binary_data=False)]
        answer = client.infer("pixels", [images], outputs=wanted)
    assert answer.as_numpy("logits").shape == (1, 10)


def test_labels_come_out_of_the_graph(server: Server, bundle: Path) -> None:
    from mimiq.models.digits import digits_heldout
    from mimiq.runtime.serving.v2_client import V2Client

    pixels, labels = digits_heldout()
    names = ["top_labels", "top_classes", "top_probabilities"]
    answers = []
    for protocol in ("http", "grpc"):
        with V2Client(server.url(protocol), protocol) as client:  # type: ignore[arg-type]
            answers.append(client.infer("pixels", {"pixels": pixels[:20]}, names).outputs)
    for answer in answers:
        texts = [[text.decode() for text in row] for row in answer["top_labels"]]
        assert texts == [[str(number) for number in row] for row in answer["top_classes"]]
        assert (answer["top_classes"][:, 0] == labels[:20]).mean() >= 0.9
        assert (np.diff(answer["top_probabilities"], axis=1) <= 0).all()


def test_soak_no_answer_is_lost_crossed_or_wrong(server: Server, bundle: Path) -> None:
    """Two clients, one a protocol, mixed batch sizes, 1 % malformed (at least four)."""
    from mimiq.models.digits import digits_heldout
    from mimiq.runtime.serving.v2_client import RequestRefused, V2Client

    opened = Bundle(bundle)
    images = opened.preprocessing.normalize(digits_heldout()[0])
    with open_bundle(opened, "ort") as session:
        expected = session.run(images)
    every = max(2, min(100, SOAK_REQUESTS // 4))
    halfway = threading.Barrier(2, timeout=3600)
    memory = [server.memory()]
    started = time.monotonic()

    def soak(protocol: Any) -> tuple[int, int]:
        generator = np.random.default_rng(len(protocol))
        answered = refused = 0
        with V2Client(server.url(protocol), protocol) as client:
            for number in range(SOAK_REQUESTS):
                if number == SOAK_REQUESTS // 2:
                    halfway.wait()
                    memory.append(server.memory())
                if number % every == 1:
                    with pytest.raises(RequestRefused, match="takes"):
                        client.infer("digits", malformed(number // every), ["logits"])
                    refused += 1
                    continue
                places = generator.integers(0, len(images), int(generator.integers(1, 17)))
                answer = client.infer("digits", {"images": images[places]}, ["logits"])
                np.testing.assert_allclose(answer.outputs["logits"], expected[places], atol=1e-4)
                assert answer.parameters["mimiq_manifest_sha256"] == opened.digest
                answered += 1
        return answered, refused

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(soak, protocol) for protocol in ("http", "grpc")]
        totals = [future.result() for future in futures]
    assert [answered + refused for answered, refused in totals] == [SOAK_REQUESTS] * 2
    assert min(refused for _, refused in totals) >= 1
    memory.append(server.memory())
    first, *_, half, last = (count / 2**20 for count in memory)
    print(
        f"soak: (answered, refused) {totals} in {time.monotonic() - started:.0f} s; resident MiB: "
        f"{first:.0f} at first, {half:.0f} halfway, {last:.0f} at last"
    )
    assert last - half < 64

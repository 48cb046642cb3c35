"""Pack → serve → check: a real V2 server in a process of its own, asked over HTTP and gRPC.

MLServer serves the repository that ``mimiq pack`` wrote; the same client code speaks to Triton.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import INT8, Compile
from serving_server import (
    START_S,
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
        *("--bundle", bundle, "--backend", "ort", "--eval-limit", 100),
        *("--load", "1,4", "--seconds", "0.5"),
    )
    assert result["passed"]
    assert result["identity"] == "same"
    assert result["version"] == "1"
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
        *("--bundle", other, "--backend", "ort", "--json"),
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


def _posted(server: Server, model: str, tensor: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    import http.client

    connection = http.client.HTTPConnection(server.http, timeout=30)
    connection.request(
        "POST",
        f"/v2/models/{model}/infer",
        json.dumps({"inputs": [tensor]}),
        {"Content-Type": "application/json"},
    )
    answer = connection.getresponse()
    body: dict[str, Any] = json.loads(answer.read())
    connection.close()
    return answer.status, body


@pytest.mark.parametrize("value", [None, 1e39])
def test_json_without_a_finite_number(server: Server, value: float | None) -> None:
    data: list[float | None] = [0.0] * (3 * 32 * 32)
    data[7] = value
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": data}
    status, body = _posted(server, "digits", tensor)
    assert status == 400
    assert "NaN or infinity" in body["error"]


def test_nan_over_grpc(server: Server) -> None:
    from mimiq.runtime.serving.v2_client import RequestRefused, V2Client

    images = np.full((1, 3, 32, 32), np.nan, np.float32)
    with (
        V2Client(server.url("grpc"), "grpc") as client,
        pytest.raises(RequestRefused, match="NaN or infinity"),
    ):
        client.infer("digits", {"images": images}, ["logits"])


def test_floats_are_not_cut_off_to_pixels(server: Server) -> None:
    data = [0.5] * (32 * 32 * 3)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": data}
    status, body = _posted(server, "pixels", tensor)
    assert status == 400
    assert "are floats, and it takes UINT8" in body["error"]
    status, _ = _posted(server, "pixels", {**tensor, "data": [128] * len(data)})
    assert status == 200


def test_bytes_that_do_not_fill_the_shape(server: Server) -> None:
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.0, 1.0]}
    status, body = _posted(server, "digits", tensor)
    assert status == 400
    assert "are not FP32 of shape [1, 3, 32, 32]" in body["error"]


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


def test_a_server_that_dies_during_the_check(repository: Path, bundle: Path) -> None:
    running = start(repository)
    try:
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
        stop(running)


def test_a_port_in_use_ends_the_server(server: Server, repository: Path) -> None:
    taken = [int(url.rpartition(":")[2]) for url in (server.http, server.grpc)]
    second = start(repository, taken, second=True)
    try:
        second.process.wait(START_S)
        assert "address already in use" in second.log.read_text().lower()
    finally:
        stop(second)


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

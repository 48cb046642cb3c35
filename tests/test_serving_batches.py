"""MLServer told to join requests: each is answered as if it had come alone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from compiled import CHEAP, Compile
from serving_server import Server, malformed, needs_server, start, stop, wait_ready

from mimiq.runtime.bundle import Bundle
from mimiq.runtime.opening import open_bundle

pytestmark = [needs_server, pytest.mark.slow]

JOINED = {"max_batch_size": 8, "max_batch_time": 0.5}  # MLServer's own would wait so many seconds


@pytest.fixture(scope="module")
def bundle(compile_digits: Compile) -> Bundle:
    return Bundle(compile_digits("--int8", *CHEAP).path)


@pytest.fixture(scope="module", params=[0, 1], ids=["no worker", "a worker"])
def server(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("batches") / "models"
    folder.mkdir()
    (folder / "model-settings.json").write_text(json.dumps(settings(bundle)))
    running = start(folder, workers=request.param)
    try:
        wait_ready(running, "digits")
        yield running
    finally:
        stop(running)


def settings(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": "digits",
        "implementation": "mimiq.runtime.mlserver_runtime.MimiqRuntime",
        "parameters": {"uri": str(bundle.path), "extra": {"backend": "ort"}},
        **JOINED,
    }


@pytest.fixture(scope="module")
def images(bundle: Bundle) -> npt.NDArray[np.float32]:
    from mimiq.models.digits import digits_heldout

    return bundle.preprocessing.normalize(digits_heldout()[0])


def ask(server: Server, feeds: dict[str, npt.NDArray[Any]], timeout_s: float = 60) -> Any:
    from mimiq.runtime.serving.v2_client import V2Client

    with V2Client(server.grpc, "grpc", timeout_s) as client:
        return client.infer("digits", feeds, ["logits"]).outputs["logits"]


def test_answers_among_malformed_and_abandoned_requests(
    server: Server, bundle: Bundle, images: npt.NDArray[np.float32]
) -> None:
    """Six clients that ask rightly, two that never do, and two that do not wait for the answer."""
    from mimiq.errors import EnvironmentLacks
    from mimiq.runtime.serving.v2_client import RequestRefused

    with open_bundle(bundle, "ort") as session:
        expected = session.run(images)
    nan = np.full((1, 3, 32, 32), np.nan, np.float32)
    channels_last = np.zeros((1, 32, 32, 3), np.float32)
    working = threading.Event()

    def right(number: int) -> int:
        generator = np.random.default_rng(number)
        for _ in range(20):
            places = generator.integers(0, len(images), int(generator.integers(1, 4)))
            answer = ask(server, {"images": images[places]})
            np.testing.assert_allclose(answer, expected[places], atol=1e-4)
        return 20

    def wrong(number: int) -> int:
        refused = 0
        bad = [*(malformed(kind) for kind in range(3)), {"images": nan}, {"images": channels_last}]
        while working.is_set():
            with pytest.raises(RequestRefused, match=r"takes|NaN or infinity"):
                ask(server, bad[(number + refused) % len(bad)])
            refused += 1
        return refused

    def impatient(number: int) -> int:
        given_up = 0
        while working.is_set():
            try:
                ask(server, {"images": images[: 1 + number]}, timeout_s=0.01)
            except EnvironmentLacks:
                given_up += 1
            time.sleep(0.2)  # MLServer tells no worker of it: it runs all the same
        return given_up

    working.set()
    with ThreadPoolExecutor(10) as pool:
        others = [pool.submit(kind, number) for kind in (wrong, impatient) for number in range(2)]
        answered = [pool.submit(right, number) for number in range(6)]
        try:
            assert [each.result(240) for each in answered] == [20] * 6
        finally:
            working.clear()
        assert all(each.result(60) > 0 for each in others)


def test_requests_within_the_limit_are_not_too_large_together(
    server: Server, images: npt.NDArray[np.float32]
) -> None:
    many = np.concatenate([images] * 2)[:200]  # 256 are the most of a request
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(ask, server, {"images": many}) for _ in range(4)]
        assert [future.result(120).shape for future in futures] == [(200, 10)] * 4


RUNTIME = """
import asyncio, json, sys, time
import numpy as np
from mlserver import ModelSettings
from mlserver.codecs import NumpyCodec
from mlserver.parallel.messages import ModelUpdateMessage, ModelUpdateType
from mlserver.types import InferenceRequest
from mimiq.runtime.mlserver_runtime import MimiqRuntime
from mimiq.runtime.serving.settings import BundleModel

sizes, run = [], BundleModel.run

def counted(self, feeds):
    sizes.append(len(feeds["images"]))
    if len(sizes) == 1:
        time.sleep(0.5)  # the others come meanwhile
    return run(self, feeds)

BundleModel.run = counted
own = ModelSettings.model_validate(json.loads(sys.argv[1]))
MimiqRuntime(own)
sent = ModelUpdateMessage(update_type=ModelUpdateType.Load, model_settings=own).model_settings

async def asked():
    model = MimiqRuntime(sent)
    await model.load()
    images = [NumpyCodec.encode_input("images", np.zeros((1, 3, 32, 32), np.float32))]
    await asyncio.gather(*(model.predict(InferenceRequest(inputs=images)) for _ in range(24)))
    await model.unload()

asyncio.run(asked())
print(json.dumps({"sizes": sizes, "mlserver": [own.max_batch_size, sent.max_batch_size]}))
"""


@pytest.mark.parametrize(("seconds", "largest"), [(0.5, 8), (0, 1)])
def test_a_worker_joins_requests_and_mlserver_does_not(
    bundle: Bundle, seconds: float, largest: int
) -> None:
    """The settings reach a worker; without a time MLServer means no batches, and so does this."""
    given = json.dumps({**settings(bundle), "max_batch_time": seconds})
    found = subprocess.run(
        [sys.executable, "-c", RUNTIME, given], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    assert sum(told["sizes"]) == 24
    assert max(told["sizes"]) == largest
    if seconds:
        assert max(told["mlserver"]) <= 1

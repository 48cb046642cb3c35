"""A served model as a network: images go in, its answers come out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mimiq.runtime.bundle import Bundle
from mimiq.runtime.evaluation.binary import as_classes
from mimiq.runtime.evaluation.datasets import InMemoryImages
from mimiq.runtime.latency.load import Ask
from mimiq.runtime.preprocessing import FloatArray
from mimiq.runtime.serving.descriptions import ServedModel
from mimiq.runtime.serving.packed import PIXELS
from mimiq.runtime.serving.settings import manifest_tensors
from mimiq.runtime.serving.v2_client import (
    GRPC_MESSAGE_BYTES,
    Answer,
    RequestRefused,
    V2Client,
)
from mimiq.runtime.serving.wanted import Wanted

DIGEST = "mimiq_manifest_sha256"
_HEADER_BYTES = 2**12  # names and shapes beside the images


class Endpoint:
    """The served model as a classifier; remembers who answered."""

    def __init__(self, client: V2Client, wanted: Wanted, bundle: Bundle) -> None:
        self._client, self._wanted = client, wanted
        self._preprocessing = bundle.preprocessing
        (self._output,) = (tensor.name for tensor in manifest_tensors(bundle, "outputs"))
        served = client.metadata(wanted.model, wanted.version)
        (self._input,) = served.inputs
        self.digests: set[str] = set()
        self.versions: set[str] = set()
        self._parameters = served.parameters

    def __call__(self, images: FloatArray) -> FloatArray:
        wanted = self._wanted
        pixels = self._input.name == PIXELS and self._input.datatype == "UINT8"
        batch = self._preprocessing.denormalize(images) if pixels else images
        feeds = {self._input.name: batch}
        answer = self._client.infer(wanted.model, feeds, [self._output], wanted.version)
        self._remember(answer)
        logits = answer.outputs[self._output]
        if logits.shape[0] != len(images):
            raise RequestRefused(
                f"{len(images)} images were sent and {logits.shape[0]} answers came back.",
                "See the server's log.",
            )
        return np.asarray(logits, np.float32)

    def _remember(self, answer: Answer) -> None:
        self.versions.add(answer.version)
        of_version = self._parameters.get(f"{DIGEST}_v{answer.version}")
        digest = answer.parameters.get(DIGEST) or of_version or self._parameters.get(DIGEST)
        if digest:
            self.digests.add(str(digest))


def comparison_batch(wanted: Wanted, served: ServedModel) -> int:
    """Images a request when comparing: as asked, but over gRPC no more than fit in one message."""
    if wanted.protocol == "http":
        return wanted.batch_size
    image = sum(int(np.prod(t.shape)) * np.dtype(t.dtype).itemsize for t in served.inputs)
    return max(1, min(wanted.batch_size, (GRPC_MESSAGE_BYTES - _HEADER_BYTES) // max(image, 1)))


def asker(
    wanted: Wanted, bundle: Bundle, probes: InMemoryImages, expected: FloatArray | None
) -> tuple[Ask, Callable[[], None]]:
    """For load: asks one probe at a time, and says whether the answer was right; and its end.

    Args:
        probes: with the right classes.
        expected: of a network without a classifier, the right embeddings (B, width).
    """
    client = V2Client(wanted.url, wanted.protocol, wanted.timeout_s)
    endpoint = Endpoint(client, wanted, bundle)
    images = bundle.preprocessing.normalize(probes.images)

    def ask(number: int) -> bool:
        place = number % len(images)
        (answer,) = endpoint(images[place : place + 1])
        if expected is not None:
            known = expected[place]
            lengths = np.linalg.norm(answer) * np.linalg.norm(known)
            return bool(answer @ known >= wanted.min_cosine * lengths)
        return bool(as_classes(answer[None]).argmax() == probes.labels[place])

    return ask, client.close

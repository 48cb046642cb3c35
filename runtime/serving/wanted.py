"""What is asked of the check of a deployed model: where it is, and within which limits."""

from __future__ import annotations

from dataclasses import dataclass

from mimiq.runtime.evaluation.similarity import MIN_COSINE
from mimiq.runtime.serving.v2_client import Protocol


@dataclass(frozen=True)
class Wanted:
    """What is checked.

    Attributes:
        url: ``HOST:PORT``.
        model, version: as the server names them; version "" is whichever it serves.
        protocol: ``http`` or ``grpc``.
        batch_size: images a request when comparing; fewer where a gRPC message cannot hold them.
        load: clients at a time; empty measures no latency.
        seconds: to spend on each level of load.
        min_agreement: smallest share of images with the same top-1 as locally, in [0, 1].
        min_cosine: of a network without a classifier, the smallest 5th percentile of the cosine
            between its embeddings and the local ones.
        p99_ms: largest 99th percentile of the latency at any level of load; None for any.
        timeout_s: of every call.
        wait_s: seconds to wait for a server that is only starting, and for its model.
    """

    url: str
    model: str
    version: str = ""
    protocol: Protocol = "http"
    batch_size: int = 8
    load: tuple[int, ...] = ()
    seconds: float = 5.0
    min_agreement: float = 0.995
    min_cosine: float = MIN_COSINE
    p99_ms: float | None = None
    timeout_s: float = 60.0
    wait_s: float = 0.0

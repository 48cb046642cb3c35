"""Whether a deployed model is the compiled one, and whether it is fast enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mimiq.errors import BadInput, CheckFailed
from mimiq.progress import SILENT_STAGE, Stage
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.evaluation.accuracy import compare
from mimiq.runtime.evaluation.comparison import Comparison
from mimiq.runtime.evaluation.datasets import LabelledImages
from mimiq.runtime.evaluation.similarity import Similarity, compare_embeddings
from mimiq.runtime.latency.load import LoadRow, put_under_load
from mimiq.runtime.preprocessing import FloatArray
from mimiq.runtime.serving.counterpart import open_counterpart
from mimiq.runtime.serving.descriptions import ServedModel
from mimiq.runtime.serving.endpoint import Endpoint, asker, comparison_batch
from mimiq.runtime.serving.packed import PIXELS, TOP_CLASSES, TOP_LABELS, TOP_PROBABILITIES, Tensor
from mimiq.runtime.serving.probes import probe_images
from mimiq.runtime.serving.readiness import wait_until_ready
from mimiq.runtime.serving.settings import manifest_tensors
from mimiq.runtime.serving.v2_client import QUESTION_S, V2Client
from mimiq.runtime.serving.wanted import Wanted
from mimiq.runtime.session import Session

# Other kernels round int8 sums elsewhere, which moves logits by a few per cent of their spread;
# another network's logits lie about one spread away.
MAX_LOGIT_DISTANCE = 0.25
_EXTRA_OUTPUTS = frozenset((TOP_PROBABILITIES, TOP_CLASSES, TOP_LABELS))


@dataclass
class CheckResult:
    """What was found.

    Attributes:
        served: the server's words.
        version: that answered; None if it was not asked.
        identity: ``same``, ``different``, or ``unknown`` where the server shows no manifest.
        comparison: the endpoint against the local bundle; None if it was not asked. Without
            labelled images the labels are the local bundle's own top-1.
        similarity: the same of a network without a classifier, which has no comparison.
        logit_distance: mean |Δ| of the logits in units of the local logits' standard deviation.
        dataset: what was compared on.
        compared_with: what ran the local bundle, as its session calls itself; None if nothing did.
        load: by level.
        failures: each a sentence; empty when the deployed model is the compiled one.
    """

    served: ServedModel
    dataset: str
    version: str | None = None
    compared_with: str | None = None
    identity: str = "unknown"
    comparison: Comparison | None = None
    similarity: Similarity | None = None
    logit_distance: float | None = None
    load: list[LoadRow] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.served.name,
            "platform": self.served.platform,
            "versions": list(self.served.versions),
            "version": self.version,
            "inputs": [tensor.to_json() for tensor in self.served.inputs],
            "outputs": [tensor.to_json() for tensor in self.served.outputs],
            "identity": self.identity,
            "dataset": self.dataset,
            "compared_with": self.compared_with,
            "comparison": self.comparison.to_json() if self.comparison else None,
            "similarity": self.similarity.to_json() if self.similarity else None,
            "logit_distance": self.logit_distance,
            "load": [row.to_json() for row in self.load],
            "failures": list(self.failures),
            "passed": not self.failures,
        }

    def require(self) -> None:
        """Raise CheckFailed if anything is wrong."""
        if self.failures:
            raise CheckFailed(
                f"The deployed {self.served.name} failed the check: {' '.join(self.failures)}",
                "Pack the bundle again and let the server load it, or check against the bundle "
                "that was deployed.",
            )


def check_server(
    bundle: Bundle,
    wanted: Wanted,
    dataset: LabelledImages | None = None,
    dataset_name: str = "labelled images",
    *,
    backend: str = "auto",
    stage: Stage = SILENT_STAGE,
) -> CheckResult:
    """Compare a served model with a bundle: what it says of itself, what it answers, how fast.

    Args:
        bundle: what should be deployed.
        wanted: where, and within which limits.
        dataset: labelled images, or of a network without a classifier any; None compares on 64
            generated ones, of which the bundle is sure.
        dataset_name: for the report.
        backend: what runs the local bundle; ``auto`` takes the server's runtime, where this host
            has it.
        stage: told the images that are compared, then each level of load as it begins.

    Returns:
        What was found; ``require()`` turns failures into an error.

    Raises:
        BadInput: the address is none, or the model's name or version.
        EnvironmentLacks: the server cannot be reached, or stopped answering.
        CheckFailed: it has no such model, or refuses requests.
    """
    for what, name in (("model", wanted.model), ("version", wanted.version)):
        if not name.isprintable():  # nor are bytes of the command line that are no text
            raise BadInput(
                f"{name!r} is no name of a {what}: it holds what cannot be printed.",
                "Give it as the server's repository has it.",
            )
    with V2Client(wanted.url, wanted.protocol, wanted.timeout_s) as client:
        wait_until_ready(
            client,
            wanted.model,
            wanted.version,
            wanted.wait_s,
            say=lambda text: stage.update(text=text),
        )
        if not client.live():
            raise CheckFailed(f"The server at {wanted.url} is not live.", "See the server's log.")
        served = client.metadata(wanted.model, wanted.version, QUESTION_S)
        result = CheckResult(served, dataset_name if dataset else "generated images")
        if not client.model_ready(wanted.model, wanted.version):
            result.failures.append("The model is known and not ready.")
        result.failures += metadata_differences(bundle, served)
        if result.failures:
            return result
        with open_counterpart(bundle, served.platform, backend) as session:
            result.compared_with = session.backend
            probes = probe_images(session, bundle.preprocessing, bundle.output)
            expected: FloatArray | None = None
            if wanted.load and bundle.output == "embedding":
                expected = session.run(bundle.preprocessing.normalize(probes.images))
            endpoint = Endpoint(client, wanted, bundle)
            size = comparison_batch(wanted, served)
            if bundle.output == "embedding":
                result.similarity = compare_embeddings(
                    endpoint,
                    session,
                    dataset or probes,
                    bundle.preprocessing,
                    batch_size=size,
                    tokens=bundle.tokens,
                    stage=stage,
                )
            else:
                reference = _Spread(session)
                found = result.comparison = compare(
                    endpoint,
                    reference,
                    dataset or probes,
                    bundle.preprocessing,
                    batch_size=size,
                    stage=stage,
                )
                result.logit_distance = found.mean_logit_difference / reference.deviation
    _judge(result, endpoint, bundle, wanted)
    if wanted.load:
        result.load = put_under_load(
            lambda: asker(wanted, bundle, probes, expected),
            wanted.load,
            wanted.seconds,
            stage=stage,
            timeout_s=wanted.timeout_s,
        )
        _judge_load(result, wanted)
    return result


def metadata_differences(bundle: Bundle, served: ServedModel) -> list[str]:
    """How the server's description contradicts the manifest, a sentence each.

    A model packed with ``--preprocess`` may take ``pixels`` instead of the manifest's input, and
    one packed with ``--top-k`` may give more outputs.
    """
    channels, height, width = bundle.preprocessing.input_shape
    inputs, outputs = (manifest_tensors(bundle, side) for side in ("inputs", "outputs"))
    failures = []
    if served.inputs not in (inputs, (Tensor(PIXELS, "UINT8", (height, width, channels)),)):
        failures.append(f"It takes {_listed(served.inputs)}; the bundle takes {_listed(inputs)}.")
    rest = tuple(tensor for tensor in served.outputs if tensor.name not in _EXTRA_OUTPUTS)
    if rest != outputs:
        failures.append(f"It gives {_listed(rest)}; the bundle gives {_listed(outputs)}.")
    return failures


class _Spread:
    """The local session as a classifier; measures how far its logits spread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def __call__(self, images: FloatArray) -> FloatArray:
        logits = self._session.run(images)
        wide = logits.astype(np.float64)
        self._count += wide.size
        self._sum += float(wide.sum())
        self._squares += float(np.square(wide).sum())
        return logits

    @property
    def deviation(self) -> float:
        mean = self._sum / self._count
        return max(float(np.sqrt(max(self._squares / self._count - mean**2, 0.0))), 1e-12)


def _judge(result: CheckResult, endpoint: Endpoint, bundle: Bundle, wanted: Wanted) -> None:
    result.version = ", ".join(sorted(endpoint.versions))
    if len(endpoint.versions) > 1:
        result.failures.append(f"Several versions answered: {result.version}.")
    if endpoint.digests:
        result.identity = "same" if endpoint.digests == {bundle.digest} else "different"
    if result.identity == "different":
        theirs = ", ".join(sorted(digest[:12] for digest in endpoint.digests))
        result.failures.append(
            f"It was packed from the bundle {theirs}…, and {bundle.path} is {bundle.digest[:12]}…."
        )
    near = result.similarity
    if near is not None:
        if near.percentile_5 < wanted.min_cosine:
            result.failures.append(
                f"The cosine of its embeddings with the bundle's has a 5th percentile of "
                f"{near.percentile_5:.4f} on {near.count} images (mean {near.mean:.4f}, least "
                f"{near.least:.4f}); {wanted.min_cosine:g} was asked for."
            )
        return
    comparison, distance = result.comparison, result.logit_distance
    assert comparison is not None
    assert distance is not None
    if comparison.agreement < wanted.min_agreement:
        result.failures.append(
            f"It agrees with the bundle on {comparison.agreement:.2%} of {comparison.count} "
            f"images; {wanted.min_agreement:.2%} were asked for. {result.compared_with} ran the "
            "bundle here."
        )
    if distance > MAX_LOGIT_DISTANCE:
        result.failures.append(
            f"Its logits lie {distance:.2f} standard deviations from the bundle's on average; "
            f"{MAX_LOGIT_DISTANCE} is the most that rounding explains."
        )


def _judge_load(result: CheckResult, wanted: Wanted) -> None:
    for row in result.load:
        if row.wrong > (1 - wanted.min_agreement) * row.requests:
            result.failures.append(
                f"With {row.clients} clients {row.wrong} of {row.requests} answers were wrong."
            )
        if wanted.p99_ms is not None and row.p99_ms > wanted.p99_ms:
            result.failures.append(
                f"With {row.clients} clients the 99th percentile is {row.p99_ms:.1f} ms; "
                f"{wanted.p99_ms:g} ms are allowed."
            )


def _listed(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(tensor.text for tensor in tensors) or "nothing"

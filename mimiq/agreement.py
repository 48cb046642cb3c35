"""Whether the exported graph does what the simulated network does."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mimiq.errors import CheckFailed
from mimiq.progress import Progress
from mimiq.quantization import QuantizedModel
from mimiq.runtime.accuracy import Comparison, compare
from mimiq.runtime.datasets import LabelledImages
from mimiq.runtime.preprocessing import FloatArray

MIN_AGREEMENT = 0.99  # of the simulated with the exported network


def agreement_notes(
    quantized: QuantizedModel, found: Comparison, images: LabelledImages, progress: Progress
) -> list[str]:
    """What to note of ``found``, the exported graph against the simulated network on ``images``.

    Two runtimes add in different orders. Where a sum then lies on the other side of a rounding
    threshold, the difference grows from block to block, and near ties fall the other way. How often
    is measured: the simulated network against itself, its input changed in the sixth digit.

    Raises:
        CheckFailed: when they differ on more images than 1 % of them, and twice as many as the
            simulated network differs on from itself, together.
    """
    if found.agreement >= MIN_AGREEMENT:
        return []
    with progress.stage("agreement", len(images)) as stage:
        stage.update(text="simulation against itself, nudged")
        floor = compare(
            simulated(quantized, nudge=1e-6),
            simulated(quantized),
            images,
            quantized.model.preprocessing,
            stage=stage,
        )
    # Both counts are small and random: neither alone would do as a limit.
    allowed = (1 - MIN_AGREEMENT) * found.count + 2 * (floor.count - floor.agreeing)
    if found.count - found.agreeing > allowed:
        raise CheckFailed(
            f"The exported graph and the simulated network agree on {found.agreement:.1%} of "
            f"{found.count} images only.",
            "This is a defect of the export on this host: please report it with the output of "
            "mimiq doctor.",
        )
    return [
        f"The exported graph agrees with the simulation on {found.agreement:.1%} of images. The "
        f"simulation agrees with itself on {floor.agreement:.1%} when its input changes in the "
        "sixth digit: what differs are near ties, decided by rounding."
    ]


def simulated(quantized: QuantizedModel, nudge: float = 0.0) -> Callable[[FloatArray], FloatArray]:
    """The simulated network as a function of normalised images, its input nudged in proportion."""

    def run(images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            logits: FloatArray = quantized.module(torch.from_numpy(images) * (1 + nudge)).numpy()
        return logits

    return run

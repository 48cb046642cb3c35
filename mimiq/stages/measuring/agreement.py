"""Whether the exported graph does what the simulated network does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mimiq.errors import CheckFailed
from mimiq.quantize.insert import QuantizedModel
from mimiq.runtime.evaluation.binary import as_classes
from mimiq.runtime.evaluation.held_out import explained_by_rounding, relative_error
from mimiq.runtime.evaluation.similarity import similarity
from mimiq.runtime.preprocessing import FloatArray
from mimiq.runtime.session import Output

_ALIKE = 0.998  # mean cosine of embeddings of which nothing need be said


@dataclass(frozen=True)
class Answers:
    """Of the same images, logits or embeddings (B, width): as exported, in full precision,
    simulated, and simulated with the input changed in the sixth digit.
    """

    exported: FloatArray
    full: FloatArray
    simulated: FloatArray
    nudged: FloatArray


def agreement_notes(
    kinds: Sequence[Answers],
    output: Output = "logits",
    tokens: int = 1,
    *,
    rounds_inputs: bool = False,
) -> list[str]:
    """Hold the exported graph against its simulation, and say where they differ.

    Two runtimes add in different orders. Where a sum then lies on the other side of a rounding
    threshold, the difference grows from block to block. Whatever rounding does, the exported graph
    differs from the simulation no more than two roundings of one network differ from each other:
    their errors towards full precision, independent at worst, add up.

    Args:
        kinds: of images.
        output: what the network answers with.
        tokens: in an embedding.
        rounds_inputs: the exported graph rounds activations that the simulation leaves as they are.

    Raises:
        CheckFailed: when the answers differ by more than that, and by far more than the
            simulation's own do when its input changes in the sixth digit.
    """
    every = Answers(
        *(
            np.concatenate([getattr(kind, name) for kind in kinds])
            for name in ("exported", "full", "simulated", "nudged")
        )
    )
    difference = relative_error(every.exported, every.simulated)
    own = relative_error(every.nudged, every.simulated)
    error = relative_error(every.simulated, every.full)
    named = "logits" if output == "logits" else "embeddings"
    bound = explained_by_rounding(error, own)
    if difference > bound:
        raise CheckFailed(
            f"The {named} of the exported graph and of the simulated network differ by "
            f"{difference:.2%} of their variance, where rounding can explain {bound:.2%}.",
            "This is a defect of the export on this host: please report it with the output of "
            "mimiq doctor.",
        )
    reason = (
        f", by which the simulation differs from itself ({own:.2%}) when its input changes in the "
        "sixth digit: "
    )
    if rounds_inputs:
        reason = ", since activations are rounded to eight bits on a CPU: "
    if output == "embedding":
        found = similarity(every.exported, every.simulated, tokens)
        if found.mean >= _ALIKE:
            return []
        return [
            f"The embeddings of the exported graph and of its simulation have a mean cosine of "
            f"{found.mean:.4f} on {found.count} images held out; they differ by {difference:.2%} "
            f"of the variance{reason}decided by rounding."
        ]
    same = float((_classes(every.exported) == _classes(every.simulated)).mean())
    if same >= 0.99:
        return []
    return [
        f"The exported graph and its simulation give the same answer on {same:.1%} of "
        f"{len(every.full)} images held out; their logits differ by {difference:.2%} of the "
        f"variance{reason}near ties, decided by rounding."
    ]


def _classes(logits: FloatArray) -> npt.NDArray[np.int64]:
    classes: npt.NDArray[np.int64] = as_classes(logits).argmax(1)
    return classes


def simulated(quantized: QuantizedModel, nudge: float = 0.0) -> Callable[[FloatArray], FloatArray]:
    """The simulated network as a function of normalised images, its input nudged in proportion."""

    def run(images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            answers: FloatArray = quantized.module(torch.from_numpy(images) * (1 + nudge)).numpy()
        return answers

    return run

"""Generated images on which a deployed model is compared with its bundle."""

from __future__ import annotations

import numpy as np

from mimiq.runtime.evaluation.binary import as_classes
from mimiq.runtime.evaluation.datasets import InMemoryImages
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.session import Output, Session

_CANDIDATES, _PROBES = 128, 64


def probe_images(
    session: Session, preprocessing: Preprocessing, output: Output = "logits"
) -> InMemoryImages:
    """64 generated images with the session's own top-1 as labels, always the same.

    Of 128 blurred noise fields those whose first logit is furthest ahead of the second are taken,
    so that another engine's rounding changes no answer. Of a network that answers with an
    embedding the first 64, without labels.
    """
    channels, height, width = preprocessing.input_shape
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (_CANDIDATES, 8, 8, channels), dtype=np.uint8)
    down, across = (np.arange(size) * 8 // size for size in (height, width))
    fine = generator.integers(-32, 33, (_CANDIDATES, height, width, channels))
    pixels = np.clip(coarse[:, down][:, :, across] + fine, 0, 255).astype(np.uint8)
    if output == "embedding":
        return InMemoryImages(pixels[:_PROBES], np.full(_PROBES, -1, np.int64), 0)
    logits = as_classes(
        np.concatenate(
            [
                session.run(preprocessing.normalize(part))
                for part in np.split(pixels, _CANDIDATES // 8)
            ]
        )
    )
    ordered = np.sort(logits, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    clear = np.sort(np.argsort(-margin, kind="stable")[:_PROBES])
    return InMemoryImages(pixels[clear], logits[clear].argmax(1).astype(np.int64), logits.shape[1])

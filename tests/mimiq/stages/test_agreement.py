"""What is said of the exported graph against the simulated network, and when it is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mimiq.errors import CheckFailed
from mimiq.stages.measuring.agreement import Answers, agreement_notes


def logits(exported: float, error: float, nudged: float) -> Answers:
    """Of 400 images and 10 classes, with these mean squared differences over the variance."""
    generator = np.random.default_rng(0)

    def noise(power: float) -> np.ndarray:
        return generator.normal(0, power**0.5, (400, 10)).astype(np.float32)

    full = noise(1.0)
    simulated = full + noise(error)
    return Answers(simulated + noise(exported), full, simulated, simulated + noise(nudged))


def test_nothing_is_said_where_the_answers_are_the_same() -> None:
    assert agreement_notes([logits(exported=1e-9, error=0.02, nudged=0.0)]) == []


def test_near_ties_are_noted_with_how_far_the_simulation_is_from_itself() -> None:
    (note,) = agreement_notes([logits(exported=0.01, error=0.02, nudged=0.01)])
    assert "near ties" in note
    assert "of 400 images held out" in note


def test_rounded_activations_are_named_where_they_are_the_reason() -> None:
    (note,) = agreement_notes([logits(exported=0.01, error=0.02, nudged=0.0)], rounds_inputs=True)
    assert "since activations are rounded to eight bits on a CPU" in note
    assert "sixth digit" not in note


def test_what_rounding_cannot_explain_is_a_defect() -> None:
    with pytest.raises(CheckFailed, match="rounding can explain"):
        agreement_notes([logits(exported=0.2, error=0.02, nudged=0.001)])


def test_kinds_are_judged_together() -> None:
    good, bad = logits(1e-9, 0.02, 0.0), logits(0.03, 0.02, 0.01)
    assert agreement_notes([good, bad])

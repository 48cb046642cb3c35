"""Accuracy, agreement and intervals against brute force."""

from __future__ import annotations

import itertools
import json
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_models import CLASSES, MakeModel
from watched import WatchedStage

from mimiq.errors import BadInput, CheckFailed
from mimiq.runtime.evaluation.accuracy import compare, evaluate
from mimiq.runtime.evaluation.comparison import Accuracy, Comparison
from mimiq.runtime.evaluation.datasets import InMemoryImages
from mimiq.runtime.evaluation.intervals import paired_difference, wilson
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.preprocessing import FloatArray, Preprocessing

PLAIN = Preprocessing(1, 1.0, mean=(0, 0, 0), std=(1 / 255,) * 3)


def numbered(count: int, labels: Any, classes: int) -> InMemoryImages:
    """Images whose red pixel is their number, so that a function can look up its answer."""
    pixels = np.zeros((count, 1, 1, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return InMemoryImages(pixels, np.asarray(labels), classes)


def table(logits: FloatArray) -> Any:
    return lambda images: logits[np.round(images[:, 0, 0, 0]).astype(int)]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    classes=st.integers(2, 12),
    batch_size=st.integers(1, 17),
    coarse=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_brute_force(count: int, classes: int, batch_size: int, coarse: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    ours, theirs = generator.standard_normal((2, count, classes)).astype(np.float32)
    if coarse:  # many ties
        ours, theirs = np.round(ours), np.round(theirs)
    labels = generator.integers(0, classes, count)
    dataset = numbered(count, labels, classes)
    found = compare(table(ours), table(theirs), dataset, PLAIN, batch_size=batch_size)

    def order(row: FloatArray) -> list[int]:
        return sorted(range(classes), key=lambda index: (-row[index], index))

    ranked = [[order(row) for row in rows] for rows in (ours, theirs)]
    for accuracy, rows in zip((found.accuracy, found.reference), ranked, strict=True):
        assert accuracy.count == count
        assert accuracy.correct == sum(r[0] == y for r, y in zip(rows, labels, strict=True))
        assert accuracy.correct_top5 == sum(y in r[:5] for r, y in zip(rows, labels, strict=True))
    pairs = [(a[0], b[0], y) for a, b, y in zip(*ranked, labels, strict=True)]
    assert found.agreeing == sum(a == b for a, b, _ in pairs)
    assert found.only_model == sum(a == y != b for a, b, y in pairs)
    assert found.only_reference == sum(b == y != a for a, b, y in pairs)
    assert found.drop == pytest.approx(
        100 * (found.only_reference - found.only_model) / count, abs=1e-9
    )
    assert found.max_logit_difference == pytest.approx(np.abs(ours - theirs).max(), rel=1e-5)
    assert found.mean_logit_difference == pytest.approx(np.abs(ours - theirs).mean(), rel=1e-5)
    variance = theirs.astype(np.float64).var()
    if variance > 1e-3:
        error = np.square(ours.astype(np.float64) - theirs).mean() / variance
        assert found.logit_error == pytest.approx(error, rel=1e-5)

    alone = evaluate(table(ours), dataset, PLAIN, batch_size=batch_size)
    assert alone == found.accuracy
    assert Comparison.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_sessions_and_functions_alike(make_model: MakeModel, preprocessing: Preprocessing) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, 50)
    dataset = InMemoryImages(pixels, labels, CLASSES)
    seen = WatchedStage()
    with OnnxRuntimeSession(make_model()) as session:
        found = compare(
            session,
            session.run,
            dataset,
            preprocessing,
            batch_size=20,
            stage=seen,
        )
        logits = session.run(preprocessing.normalize(pixels))
    assert found.agreement == 1
    assert found.max_logit_difference == 0
    assert found.accuracy.correct == (logits.argmax(1) == labels).sum()
    assert seen.updates == [(20, None, 50), (40, None, 50), (50, None, 50)]


def test_what_cannot_be_scored() -> None:
    dataset = numbered(3, [0, 1, 2], 4)
    with pytest.raises(BadInput, match=r"\(3, 5\) .* 4 classes"):
        evaluate(table(np.zeros((3, 5), np.float32)), dataset, PLAIN)
    empty = InMemoryImages(np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, np.int64), 4)
    with pytest.raises(BadInput, match="no images"):
        evaluate(table(np.zeros((0, 4), np.float32)), empty, PLAIN)
    logits = np.zeros((3, 4), np.float32)
    logits[2, 1] = np.nan
    with pytest.raises(CheckFailed, match="image 2 are not finite"):
        evaluate(table(logits), dataset, PLAIN, batch_size=2)


def test_percentages() -> None:
    accuracy = Accuracy(count=500, correct=397, correct_top5=480)
    assert accuracy.top1 == pytest.approx(79.4)
    assert accuracy.top5 == pytest.approx(96.0)
    low, high = accuracy.top1_interval
    for bound in (low / 100, high / 100):  # what defines the score interval
        deviation = 1.959963984540054 * (bound * (1 - bound) / 500) ** 0.5
        assert abs(bound - 0.794) == pytest.approx(deviation, rel=1e-9)
    assert low < 79.4 < high


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.794, 0.99])
def test_wilson_holds_its_level(rate: float) -> None:
    """Exact coverage over all outcomes of 100 trials; the interval is approximate, not loose."""
    inside = 0.0
    for k in range(101):
        low, high = wilson(k, 100)
        if low <= rate <= high:
            inside += comb(100, k) * rate**k * (1 - rate) ** (100 - k)
    assert 0.92 < inside < 0.99


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 10)[1] > 0.2


def test_paired_interval_holds_its_level() -> None:
    """Exact coverage: 60 images, the model alone right on 5 % and the reference alone on 10 %."""
    p_model, p_reference, count = 0.05, 0.10, 60
    inside = 0.0
    for b, c in itertools.product(range(count + 1), repeat=2):
        if b + c > count:
            continue
        rest = 1 - p_model - p_reference
        ways = comb(count, b) * comb(count - b, c)
        weight = ways * p_reference**b * p_model**c * rest ** (count - b - c)
        low, high = paired_difference(b, c, count)
        if low <= p_reference - p_model <= high:
            inside += weight
    assert 0.93 < inside < 0.99


def test_no_disagreement_still_has_a_width() -> None:
    low, high = paired_difference(0, 0, 500)
    assert low == pytest.approx(-high)
    assert 0.001 < high < 0.01
    assert paired_difference(0, 0, 0) == (-1, 1)

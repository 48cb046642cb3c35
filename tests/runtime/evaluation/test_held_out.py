"""What quantisation costs without labels."""

from __future__ import annotations

import numpy as np
import pytest

from mimiq.runtime.evaluation.held_out import Cost, HeldOut, cost, relative_error


def test_the_same_network_costs_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    found = cost(logits, logits)
    assert (found.count, found.agreeing, found.logit_error, found.believed) == (20, 20, 0.0, 0.0)


def test_a_near_tie_costs_less_than_a_sure_answer() -> None:
    sure, tie = np.float32([[5, 0, 0]]), np.float32([[1.01, 1, 0]])
    other = np.float32([[0, 5, 0]])
    assert cost(other, tie).believed < 0.01 < 0.9 < cost(other, sure).believed


def test_the_error_is_relative_to_the_variance() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
    assert relative_error(logits * 10 + 1, logits * 10) == pytest.approx(0.01, rel=0.1)


def test_the_estimate_rests_on_answers_and_on_the_error() -> None:
    quiet = HeldOut({"scenes": Cost(48, 48, logit_error=0.05, believed=0.0)})
    changed = HeldOut({"scenes": Cost(48, 40, logit_error=0.05, believed=0.04)})
    assert quiet.points == pytest.approx(0.5)
    assert changed.points == pytest.approx(2.5)
    ruined = HeldOut({"scenes": Cost(48, 0, logit_error=50.0, believed=1.0)})
    assert ruined.points == 100


def test_it_survives_being_written() -> None:
    logits = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    found = HeldOut({"scenes": cost(logits[::-1], logits), "synthetic": cost(logits, logits)})
    assert HeldOut.from_json(found.to_json()) == found
    assert found.count == 16
    low, high = found.agreement_interval
    assert low < found.agreement < high


def test_a_kind_counts_by_its_images() -> None:
    many, few = Cost(count=90, agreeing=90, logit_error=0.0, believed=0.0), Cost(10, 5, 0.2, 0.1)
    found = HeldOut({"scenes": many, "synthetic": few})
    assert found.logit_error == pytest.approx(0.02)
    assert found.points == pytest.approx(100 * (0.01 + 0.2 * 0.02) / 2)

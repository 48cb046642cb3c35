"""What is said of the exported graph against the simulated network, and when it is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mimiq.errors import CheckFailed
from mimiq.progress import Progress
from mimiq.stages import agreement
from mimiq.stages.agreement import agreement_notes


def notes(
    monkeypatch: pytest.MonkeyPatch, agreeing: int, floor: int, count: int = 500
) -> list[str]:
    """Of ``count`` images, as many agree as given; the simulation with itself on ``floor``."""

    def result(same: int) -> Any:
        return SimpleNamespace(count=count, agreeing=same, agreement=same / count)

    monkeypatch.setattr(agreement, "compare", lambda *_, **__: result(floor))
    quantized = cast(Any, SimpleNamespace(model=SimpleNamespace(preprocessing=None)))
    return agreement_notes(quantized, result(agreeing), cast(Any, range(count)), Progress())


def test_nothing_is_said_of_99_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notes(monkeypatch, 495, floor=0) == []


def test_near_ties_are_noted_with_how_often_they_fall_anyway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (note,) = notes(monkeypatch, 480, floor=490)
    assert "agrees with the simulation on 96.0%" in note
    assert "with itself on 98.0%" in note


def test_more_than_near_ties_explain_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notes(monkeypatch, 475, floor=490)  # 25 differ: 5, and twice 10
    with pytest.raises(CheckFailed, match=r"on 94\.8% of 500 images only"):
        notes(monkeypatch, 474, floor=490)

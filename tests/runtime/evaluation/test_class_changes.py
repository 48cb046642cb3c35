"""Classes that lose images, and what these are taken for."""

from __future__ import annotations

import numpy as np

from mimiq.runtime.evaluation.class_changes import ClassChange, ClassCounts


def test_what_is_lost_is_counted_by_class() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    theirs = np.array([0, 0, 0, 1, 1, 2, 0, 1])
    ours = np.array([0, 2, 2, 1, 0, 0, 2, 3])
    counts = ClassCounts()
    for part in (slice(0, 3), slice(3, 8)):
        counts.add(labels[part], ours[part], theirs[part])
    # Class 2 loses one image and gains another, class 3 gains one: neither has lost.
    assert counts.lost() == (
        ClassChange(0, 3, 3, 1, ((2, 2),)),
        ClassChange(1, 2, 2, 1, ((0, 1),)),
    )


def test_few_are_kept_and_survive_json() -> None:
    labels = np.arange(40)
    counts = ClassCounts()
    counts.add(labels, (labels + 1) % 40, labels)
    lost = counts.lost()
    assert [change.label for change in lost] == list(range(10))
    assert tuple(ClassChange.from_json(change.to_json()) for change in lost) == lost

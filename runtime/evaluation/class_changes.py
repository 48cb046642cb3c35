"""Which classes a model loses against its reference, and what it takes them for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

_CLASSES, _INSTEAD = 10, 3  # that are kept


@dataclass(frozen=True)
class ClassChange:
    """A class of which the model gets fewer images right than the reference.

    Attributes:
        label: the class.
        count: its images.
        before, now: how many of them the reference, and the model, got right.
        instead: the classes that the model named where the reference alone was right, with how
            often, the most frequent first.
    """

    label: int
    count: int
    before: int
    now: int
    instead: tuple[tuple[int, int], ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "instead": [list(pair) for pair in self.instead]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClassChange:
        instead = tuple((int(label), int(count)) for label, count in data["instead"])
        label, count, before, now = (int(data[key]) for key in ("label", "count", "before", "now"))
        return cls(label, count, before, now, instead)


@dataclass
class ClassCounts:
    """Running counts by class, batch by batch."""

    count: Counter[int] = field(default_factory=Counter)
    before: Counter[int] = field(default_factory=Counter)
    now: Counter[int] = field(default_factory=Counter)
    instead: dict[int, Counter[int]] = field(default_factory=dict)

    def add(self, labels: Indices, ours: Indices, theirs: Indices) -> None:
        """
        Args:
            labels: int64 (B,), the images' own classes.
            ours, theirs: int64 (B,), the classes that model and reference named.
        """
        for label, our, their in zip(labels.tolist(), ours.tolist(), theirs.tolist(), strict=True):
            self.count[label] += 1
            self.before[label] += their == label
            self.now[label] += our == label
            if their == label != our:
                self.instead.setdefault(label, Counter())[our] += 1

    def lost(self) -> tuple[ClassChange, ...]:
        """The classes that lose most images, at most ten; by label where they lose as many."""
        losing = [label for label in self.count if self.before[label] > self.now[label]]
        losing.sort(key=lambda label: (self.now[label] - self.before[label], label))
        return tuple(
            ClassChange(
                label,
                self.count[label],
                self.before[label],
                self.now[label],
                tuple(self.instead[label].most_common(_INSTEAD)),
            )
            for label in losing[:_CLASSES]
        )

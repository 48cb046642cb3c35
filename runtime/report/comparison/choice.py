"""Which of several bundles to take: what dominates what, and a recommendation with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mimiq.runtime.report.accuracy import words_of
from mimiq.runtime.report.comparison.candidates import FULL, Candidate, Timing
from mimiq.runtime.report.report import Report

WITHIN = 1.0
"""Points of top-1 that a recommended bundle may lose."""
_COSINE = 100.0  # points of cosine to 1
_SLOWER = 0.9  # of the fastest: what is slower is not recommended for its size alone
_ALIKE = 0.95  # speeds this near to each other are called the same


@dataclass(frozen=True)
class Measure:
    """By what bundles are held against each other, larger being better.

    Attributes:
        axis: what it is, with its unit.
        unit: of what is lost, in the plural.
        of: a bundle's value.
        full: full precision's value.
        estimated: whether it was measured without labels.
    """

    axis: str
    unit: str
    of: Callable[[Report], float]
    full: float
    estimated: bool = False

    def lost(self, candidate: Candidate) -> float:
        """Points lost against full precision."""
        return self.full - self.of(candidate.report)

    def counted(self, points: float) -> str:
        """``1 point of top-1``, ``1.25 points of top-1``."""
        number = f"{points:.2f}".rstrip("0").rstrip(".")
        return f"{number} {self.unit.replace('points', 'point', 1) if number == '1' else self.unit}"


@dataclass(frozen=True)
class Place:
    """Where latency is compared: with one backend on one host, at one batch size."""

    where: str
    batch: int


@dataclass(frozen=True)
class Choice:
    """What follows from the figures of the bundles of one network.

    Attributes:
        measure: of accuracy; None where the bundles have none in common.
        place: of latency; None where the bundles have none in common.
        dominated: by name, the bundle that is as good in everything and better in something.
        recommended: the bundle to take; None where accuracy cannot be compared.
        sentence: what it gives.
        reason: why it and not another.
        notes: what could not be compared, and why.
    """

    measure: Measure | None
    place: Place | None
    dominated: Mapping[str, str] = field(default_factory=dict)
    recommended: Candidate | None = None
    sentence: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()

    def timing(self, candidate: Candidate) -> Timing | None:
        """The candidate's latency where latencies are compared."""
        return candidate.timing(self.place.where, self.place.batch) if self.place else None

    def to_json(self) -> dict[str, Any]:
        return {
            "measure": self.measure.axis if self.measure else None,
            "latency": vars(self.place) if self.place else None,
            "dominated": dict(self.dominated),
            "recommended": self.recommended.name if self.recommended else None,
            "sentence": self.sentence,
            "reason": self.reason,
            "notes": list(self.notes),
        }


def choose(
    found: Sequence[Candidate], *, within: float = WITHIN, batch: int | None = None
) -> Choice:
    """Hold the bundles of one network against each other.

    Args:
        found: one or more; of one alone it is said what it gives.
        within: points of top-1 (or hundredths of the cosine) that the recommended one may lose.
        batch: the batch size whose latency counts; None for the smallest that all have.
    """
    measure, place = _measure(found), _place(found, batch)
    notes = []
    if measure is None:
        notes.append(
            "Their accuracy cannot be compared: they were not all measured on the same images. "
            "mimiq eval measures a bundle."
        )
    elif measure.estimated:
        notes.append(
            "Accuracy was not measured on labelled images; what is lost is estimated on images "
            "held out."
        )
    if place is None:
        at = "" if batch is None else f" at batch {batch}"
        notes.append(
            "Their latency cannot be compared: no host and backend is recorded for all of "
            f"them{at}. Compile them on one host, with `batches` to measure."
        )
    bare = Choice(measure, place, notes=tuple(notes))
    dominated = _dominated(found, bare)
    if measure is None:
        return Choice(measure, place, dominated, notes=tuple(notes))
    best, reason = _best(found, bare, dominated, within)
    return Choice(
        measure, place, dominated, best, _sentence(best, found, bare), reason, tuple(notes)
    )


def _measure(found: Sequence[Candidate]) -> Measure | None:
    reports = [candidate.report for candidate in found]
    first = reports[0]
    if any(report.untrained for report in reports):
        return None
    if first.accuracy and all(_same_images(first, report) for report in reports):
        words = words_of(first.accuracy)
        return Measure(
            f"{words.right} on {first.dataset}, %",
            words.points,
            lambda report: report.accuracy.accuracy.top1 if report.accuracy else 0.0,
            first.accuracy.reference.top1,
        )
    if all(report.held_out for report in reports):
        return Measure(
            "points of top-1 kept, estimated",
            "points of top-1",
            lambda report: 0 - report.held_out.points if report.held_out else 0.0,
            0.0,
            estimated=True,
        )
    if all(report.similarity for report in reports):
        return Measure(
            "mean cosine with full precision, %",
            "hundredths of the cosine",
            lambda report: _COSINE * report.similarity.mean if report.similarity else 0.0,
            _COSINE,
        )
    return None


def _same_images(first: Report, other: Report) -> bool:
    return (
        first.accuracy is not None
        and other.accuracy is not None
        and other.dataset == first.dataset
        and other.accuracy.reference == first.accuracy.reference
    )


def _place(found: Sequence[Candidate], batch: int | None) -> Place | None:
    """What all have in common: the fastest backend there, at the smallest batch size."""
    places = {
        (timing.batch, timing.where)
        for timing in found[0].timings
        if batch in (None, timing.batch)
        and all(other.timing(timing.where, timing.batch) for other in found)
    }
    if not places:
        return None
    smallest = min(of for of, _ in places)
    here = sorted(where for of, where in places if of == smallest)
    speed = {where: max(_speed(each.timing(where, smallest)) for each in found) for where in here}
    return Place(max(here, key=lambda where: speed[where]), smallest)


def _speed(timing: Timing | None) -> float:
    return timing.speed if timing else 0.0


def _figures(candidate: Candidate, choice: Choice) -> tuple[float, ...]:
    """What counts, larger being better; what was not measured is the same for all."""
    return (
        choice.measure.of(candidate.report) if choice.measure else 0.0,
        0 - _logit_error(candidate.report),
        0 - (candidate.bytes or 0),
        _speed(choice.timing(candidate)),
    )


def _logit_error(report: Report) -> float:
    """It tells bundles apart whose top-1 is the same on few images."""
    found = report.accuracy or report.held_out
    return found.logit_error if found else 0.0


def _dominated(found: Sequence[Candidate], choice: Choice) -> dict[str, str]:
    figures = {candidate.name: _figures(candidate, choice) for candidate in found}
    return {
        name: better
        for name, own in figures.items()
        for better in [_better(own, figures)]
        if better is not None
    }


def _better(own: tuple[float, ...], figures: Mapping[str, tuple[float, ...]]) -> str | None:
    names = (
        name
        for name, other in figures.items()
        if other != own and all(theirs >= ours for theirs, ours in zip(other, own, strict=True))
    )
    return next(names, None)


def _best(
    found: Sequence[Candidate], choice: Choice, dominated: Mapping[str, str], within: float
) -> tuple[Candidate, str]:
    """The smallest of those that lose little and are about as fast as any, and why it is that."""
    measure = choice.measure
    assert measure is not None
    kept = [candidate for candidate in found if measure.lost(candidate) <= within]
    if not kept:
        best = min(found, key=measure.lost)
        return best, f"It loses least; every one loses more than {measure.counted(within)}."
    fastest = max(_speed(choice.timing(candidate)) for candidate in kept)
    quick = [c for c in kept if _speed(choice.timing(c)) >= _SLOWER * fastest]
    best = min(quick, key=lambda c: (c.bytes or 0, c.name in dominated, measure.lost(c)))
    quickly = " and are about as fast as the fastest of them" if len(quick) < len(kept) else ""
    reason = f"It is the smallest of those that lose at most {measure.counted(within)}{quickly}."
    return best, " ".join([reason, *_not_these(found, best, choice, kept)])


def _not_these(
    found: Sequence[Candidate], best: Candidate, choice: Choice, kept: Sequence[Candidate]
) -> list[str]:
    """Why not those that are smaller."""
    sentences = []
    for other in found:
        if (other.bytes or 0) >= (best.bytes or 0):
            continue
        if other not in kept and choice.measure is not None:
            lost = choice.measure.counted(choice.measure.lost(other))
            sentences.append(f"{other.name} is smaller and loses {lost}.")
        else:
            slower = _speed(choice.timing(best)) / (_speed(choice.timing(other)) or 1.0)
            sentences.append(f"{other.name} is smaller and {slower:.1f} times slower.")
    return sentences


def _sentence(best: Candidate, found: Sequence[Candidate], choice: Choice) -> str:
    """``W4A8: 6.5 times smaller, within 1.2 points, as fast as W8A8 here``."""
    measure = choice.measure
    assert measure is not None
    parts = [f"{best.smaller:.1f} times smaller than {FULL}"] if best.smaller else []
    lost = measure.lost(best)
    estimated = "probably " if measure.estimated else ""
    if lost > 0:
        parts.append(f"{estimated}within {measure.counted(lost)}")
    else:
        parts.append(f"{estimated}no {measure.unit} lost")
    parts += _speed_words(best, found, choice)
    return f"{best.name}: {', '.join(parts)}."


def _speed_words(best: Candidate, found: Sequence[Candidate], choice: Choice) -> list[str]:
    timing = choice.timing(best)
    if timing is None or choice.place is None:
        return []
    alone = f"{timing.speed:.1f} times as fast as {FULL}"
    others = [other for other in found if other is not best]
    if not others:
        return [f"{alone} (batch {choice.place.batch})"]
    rival = max(others, key=lambda other: _speed(choice.timing(other)))
    ratio = timing.speed / _speed(choice.timing(rival))
    if ratio > 1 / _ALIKE:
        against = f"{ratio:.1f} times as fast as {rival.name}"
    elif ratio >= _ALIKE:
        against = f"as fast as {rival.name}"
    else:
        against = f"where {rival.name} is {1 / ratio:.1f} times as fast as this"
    return [f"{alone}, {against} (batch {choice.place.batch})"]

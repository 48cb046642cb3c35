"""The report of a bundle, ``report.json``: what was measured, and its one reader and one writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mimiq.errors import BadInput
from mimiq.runtime.evaluation.comparison import Comparison
from mimiq.runtime.evaluation.held_out import HeldOut
from mimiq.runtime.evaluation.similarity import EmbeddingCost
from mimiq.runtime.files.json_objects import COMPILE_AGAIN, read_json
from mimiq.runtime.files.json_shapes import Misfit
from mimiq.runtime.latency.measure import LatencyRow
from mimiq.runtime.report.shape import REPORT

FORMAT = "mimiq-report/1"

Object = Mapping[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Size:
    """Bytes of the model files, and of their fp32 counterpart; None where not measured."""

    bytes: int | None = None
    reference_bytes: int | None = None

    @property
    def ratio(self) -> float | None:
        """How many times smaller the files are than their fp32 counterpart."""
        return self.reference_bytes / self.bytes if self.bytes and self.reference_bytes else None


@dataclass(frozen=True)
class Tuning:
    """What distillation did.

    Attributes:
        steps: optimiser steps taken.
        initial_loss, best_loss: on the held-out images, before and at the state that was kept.
        best_step: when that state was reached; 0 means that training never helped.
        history: ``(step, loss on held-out calibration images)``.
        agreement: share of held-out images on which student and teacher name the same class; the
            mean cosine of their embeddings, where there are no classes.
        seconds: wall time, resumed parts included. Like the agreement None in a report that does
            not say.
    """

    steps: int
    initial_loss: float
    best_loss: float
    best_step: int
    history: tuple[tuple[int, float], ...]
    agreement: float | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "initial_loss": self.initial_loss,
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "agreement": self.agreement,
            "seconds": self.seconds,
            "history": [list(point) for point in self.history],
        }

    @staticmethod
    def from_json(data: Object) -> Tuning:
        return Tuning(
            steps=int(data["steps"]),
            initial_loss=float(data["initial_loss"]),
            best_loss=float(data["best_loss"]),
            best_step=int(data["best_step"]),
            history=tuple((int(step), float(loss)) for step, loss in data["history"]),
            agreement=_optional(float, data.get("agreement")),
            seconds=_optional(float, data.get("seconds")),
        )


@dataclass(frozen=True)
class Report:
    """What was measured of a model; what was not is None or empty.

    Attributes:
        model: name, architecture, num_classes, parameters, untrained, …, as in the manifest.
        precision: label, …, as in the manifest.
        created: UTC, ISO 8601.
        size: of the files.
        dataset: what accuracy was measured on.
        accuracy: the exported model against the full-precision one.
        held_out: the cost on images without labels, held out from everything.
        similarity: of a network without a classifier, in the place of the two above.
        simulation: the exported model against the simulated one, in reports written before the
            cost was measured.
        latency: the reference engine first at each batch size.
        fallbacks: layers that run in higher precision than asked for, and why.
        hardware: see :func:`mimiq.runtime.host.describe_hardware`.
        software: version by name.
        notes: what a reader must know before using the numbers.
        tuning: what distillation did; None where nothing was tuned.
        seconds: that the compilation took.
        memory: bytes that the graph stores, by the type of weights, and of what else it holds.
        layers: what rounding each Linear alone does to the answer before it is fitted, to first
            order: squared error over the variance, by the layer's name.
        command: what makes the same bundle, as a person types it; None for a network in memory.
        further: entries that this version does not know, written again with the others.
    """

    model: Object = field(default_factory=dict)
    precision: Object = field(default_factory=dict)
    created: str | None = None
    size: Size = Size()
    dataset: str | None = None
    accuracy: Comparison | None = None
    held_out: HeldOut | None = None
    similarity: EmbeddingCost | None = None
    simulation: Comparison | None = None
    latency: tuple[LatencyRow, ...] = ()
    fallbacks: tuple[str, ...] = ()
    hardware: Object = field(default_factory=dict)
    software: Object = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tuning: Tuning | None = None
    seconds: float | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, float] = field(default_factory=dict)
    command: str | None = None
    further: Object = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        return str(self.model.get("name", "model"))

    @property
    def label(self) -> str:
        """Of the precision, for example ``w4a8``."""
        return str(self.precision.get("label", "?"))

    @property
    def untrained(self) -> bool:
        """Random weights: good for size and latency alone."""
        return bool(self.model.get("untrained", False))

    def to_json(self) -> dict[str, Any]:
        """The content of ``report.json``."""
        return {
            "format": FORMAT,
            "created": self.created,
            "model": dict(self.model),
            "precision": dict(self.precision),
            "size": asdict(self.size),
            "dataset": self.dataset,
            "accuracy": self.accuracy.to_json() if self.accuracy else None,
            "heldout": self.held_out.to_json() if self.held_out else None,
            "similarity": self.similarity.to_json() if self.similarity else None,
            "simulation": self.simulation.to_json() if self.simulation else None,
            "latency": [row.to_json() for row in self.latency],
            "fallbacks": list(self.fallbacks),
            "hardware": dict(self.hardware),
            "software": dict(self.software),
            "notes": list(self.notes),
            "tuning": self.tuning.to_json() if self.tuning else None,
            "seconds": self.seconds,
            "memory": dict(self.memory),
            "layers": dict(self.layers),
            "command": self.command,
            **self.further,
        }

    @staticmethod
    def from_json(data: Object) -> Report:
        """
        Raises:
            AttributeError, KeyError, TypeError, ValueError: an entry is not what it should be.
        """
        size = data.get("size") or {}
        return Report(
            model=dict(data.get("model") or {}),
            precision=dict(data.get("precision") or {}),
            created=_optional(str, data.get("created")),
            size=Size(*(_optional(int, size.get(key)) for key in ("bytes", "reference_bytes"))),
            dataset=_optional(str, data.get("dataset")),
            accuracy=_optional(Comparison.from_json, data.get("accuracy")),
            held_out=_optional(HeldOut.from_json, data.get("heldout")),
            similarity=_optional(EmbeddingCost.from_json, data.get("similarity")),
            simulation=_optional(Comparison.from_json, data.get("simulation")),
            latency=tuple(LatencyRow.from_json(row) for row in data.get("latency") or ()),
            fallbacks=tuple(str(text) for text in data.get("fallbacks") or ()),
            hardware=dict(data.get("hardware") or {}),
            software=dict(data.get("software") or {}),
            notes=tuple(str(text) for text in data.get("notes") or ()),
            tuning=_optional(Tuning.from_json, data.get("tuning")),
            seconds=_optional(float, data.get("seconds")),
            memory={str(key): int(size) for key, size in (data.get("memory") or {}).items()},
            layers={str(name): float(of) for name, of in (data.get("layers") or {}).items()},
            command=_optional(str, data.get("command")),
            further={key: value for key, value in data.items() if key not in _KNOWN},
        )


_KNOWN = Report().to_json().keys()


def read_report(path: Path) -> Report:
    """Read ``report.json``.

    Raises:
        BadInput: it cannot be read, has another format version, or an entry is not what it should
            be.
    """
    data = read_json(path)
    if data.get("format") != FORMAT:
        raise BadInput(
            f"{path} has format {data.get('format')!r}; this mimiq reads {FORMAT!r}.",
            "Compile the model again, or open the bundle with the mimiq that wrote it.",
        )
    try:
        REPORT(data, "")
        return Report.from_json(data)
    except Misfit as error:
        raise BadInput(f"The report {path} cannot be used: {error}.", COMPILE_AGAIN) from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"The report {path} is incomplete: {type(error).__name__} {error}.", COMPILE_AGAIN
        ) from error


def _optional(read: Callable[[Any], _T], value: Any) -> _T | None:
    return None if value is None else read(value)

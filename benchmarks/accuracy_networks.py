"""Networks to measure side by side, as the command line of ``accuracy.py`` names them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mimiq.cache import Cache
from mimiq.errors import BadInput
from mimiq.models import LoadedModel, load_model
from mimiq.progress import Progress
from mimiq.spec import Job
from mimiq.stages.images import calibration_set

# What comes before a colon that is part of a model's name.
_SCHEMES = ("hf-hub", "hf_hub", "local-dir")


@dataclass(frozen=True)
class Network:
    """A network, and where its calibration images come from.

    Attributes:
        name: in results; no slash.
        model, weights: as :func:`mimiq.models.load_model` takes them.
        calibration: a folder, or the name of another network whose synthetic images it uses;
            None for images of its own.
    """

    name: str
    model: str
    weights: Path | None = None
    calibration: str | None = None

    def load(self) -> LoadedModel:
        """The network.

        Raises:
            MimiqError: as :func:`mimiq.models.load_model`.
        """
        return load_model(self.model, weights=self.weights)


def parse_networks(texts: Sequence[str], calibrations: Sequence[str] = ()) -> list[Network]:
    """The networks of ``--network NAME=MODEL[:WEIGHTS]`` and ``--calibration NAME=SOURCE``.

    Raises:
        BadInput: a text of another form, a name given twice, or one that no network has.
    """
    networks: dict[str, Network] = {}
    for text in texts:
        name, found = _named(text, "--network deit_t=deit_t:deit_tiny.safetensors")
        if name in networks:
            raise BadInput(f"Two networks are named {name}.", "Give each a name of its own.")
        model, colon, weights = found.rpartition(":")
        if not colon or model in _SCHEMES:
            model, weights = found, ""
        networks[name] = Network(name, model, Path(weights) if weights else None)
    for text in calibrations:
        name, source = _named(text, "--calibration planted=deit_t")
        if name not in networks:
            raise BadInput(
                f"--calibration {text}: no network is named {name}.",
                f"Choose one of {', '.join(networks)}.",
            )
        networks[name] = replace(networks[name], calibration=source)
    return list(networks.values())


def calibration_source(job: Job, lender: Network | None, cache: Cache, progress: Progress) -> Job:
    """The job with the images that another network's synthesis makes from the same seed.

    Args:
        job: a compilation on images of its own.
        lender: the other network; None leaves the job as it is.
    """
    if lender is None:
        return job
    borrowed = calibration_set(replace(job, model=lender.load()), cache, progress)
    return replace(job, calibration=borrowed.path)


def _named(text: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and value and re.fullmatch(r"[\w.-]+", name)):
        raise BadInput(f"{text!r} is not of the form NAME=….", f"Write for example: {example}")
    return name, value

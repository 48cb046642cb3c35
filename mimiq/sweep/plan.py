"""What a sweep compiles, read from a YAML file or put together from the command line."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimiq.config.command import flag_for, precision_flags
from mimiq.config.synthesis import SYNTHESIS_RECIPES
from mimiq.errors import BadInput, missing_extra
from mimiq.files import exhausted
from mimiq.models.names import check_name
from mimiq.models.precisions import widths_of

_OF_A_NETWORK = ("name", "precisions", "recipes")  # its own, where the file's are not meant
_NETWORK = (
    *("model", "weights", "eval", "labels", "num_classes", "image_size", "calibration"),
    *_OF_A_NETWORK,
)
_COMPILE = ("steps", "eval", "eval_limit", "batches", "target", "device", "seed")
_SYNTHESIS = ("images", "seed", "device")
_LOADING = ("weights", "num_classes", "image_size")
_AXES = ("models", "precisions", "recipes")
KEYS = (*_AXES, "images", *_COMPILE, "slurm")


@dataclass(frozen=True)
class Images:
    """A calibration set that the cells of a network share.

    Attributes:
        name: of the set's folder.
        command: what makes it, without the program and without its place.
    """

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One compilation of a sweep.

    Attributes:
        name: of the bundle, without its suffix.
        command: what makes it, without the program, its images and its place.
        images: the set that it shares; None where the network brings its own.
    """

    name: str
    command: tuple[str, ...]
    images: Images | None


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        cells: every combination.
        slurm: how each job is submitted, as submitit's parameters without their ``slurm_``.
    """

    cells: tuple[Cell, ...]
    slurm: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> list[Images]:
        """Every set that cells share, once."""
        return list(dict.fromkeys(cell.images for cell in self.cells if cell.images))


def program() -> list[str]:
    """How a job starts this mimiq."""
    return [sys.executable, "-m", "mimiq"]


def read_plan(path: Path) -> Plan:
    """The sweep that a YAML file describes.

    Raises:
        BadInput: it cannot be read, a key is unknown, or a value makes no sense.
        EnvironmentLacks: PyYAML is not installed.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise missing_extra("PyYAML", "sweep") from error
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise exhausted(error, f"{path} cannot be read") or BadInput(
            f"{path} cannot be read: {error.strerror}.", "Check the path."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} is not valid YAML: {' '.join(str(error).split())}.", "Correct that line."
        ) from error
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds no keys with values.", f"Give {', '.join(_AXES)}.")
    return make_plan(found, str(path))


def make_plan(given: Mapping[str, Any], source: str = "The sweep") -> Plan:
    """The sweep of every network at every precision with every recipe.

    Args:
        given: ``models`` (names, or mappings with ``model`` and what is given for it alone, such
            as a ``name`` or ``precisions`` of its own), ``precisions``, perhaps ``recipes``, and
            what holds for all of them.
        source: how errors name where this comes from.

    Raises:
        BadInput: an unknown key, naming the nearest; an unknown precision, recipe or network.
    """
    _require_known(given, KEYS, source)
    for axis in ("models", "precisions"):
        if not given.get(axis):
            raise BadInput(f"{source} names no {axis}.", f"List one or more {axis}.")
    networks = [_network(entry, source) for entry in _listed(given["models"])]
    axes = [
        (network, _precisions(network, given), _recipes(network, given)) for network in networks
    ]
    slurm = given.get("slurm") or {}
    if not isinstance(slurm, Mapping):
        raise BadInput(
            f"What {source} gives for slurm holds no keys with values.", "Give partition: NAME."
        )
    cells = [
        _cell(network, precision, recipe, given)
        for network, precisions, recipes in axes
        for recipe in recipes
        for precision in precisions
    ]
    names = [cell.name for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(
            f"{source} has {twice} twice.",
            "List every network and precision once; the same network with other weights needs a "
            "name of its own there.",
        )
    return Plan(tuple(cells), {str(key): value for key, value in slurm.items()})


def _network(entry: Any, source: str) -> dict[str, Any]:
    found = dict(entry) if isinstance(entry, Mapping) else {"model": str(entry)}
    _require_known(found, _NETWORK, f"A network of {source}")
    if not found.get("model"):
        raise BadInput(f"A network of {source} has no model.", "Give its name there.")
    found["model"] = str(found["model"])
    check_name(found["model"])
    return found


def _precisions(network: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    precisions = [str(name) for name in _listed(network.get("precisions") or given["precisions"])]
    for precision in precisions:
        widths_of(precision)
    return precisions


def _recipes(network: Mapping[str, Any], given: Mapping[str, Any]) -> list[str | None]:
    named = _listed(network.get("recipes") or given.get("recipes"))
    recipes = [None if name is None else str(name) for name in named]
    for recipe in recipes:
        if recipe is not None and recipe not in SYNTHESIS_RECIPES:
            raise BadInput(f"Recipe {recipe!r} is unknown{_nearest(recipe, SYNTHESIS_RECIPES)}.")
    return recipes


def _cell(
    network: Mapping[str, Any], precision: str, recipe: str | None, given: Mapping[str, Any]
) -> Cell:
    name = network.get("name") or network["model"]
    base = "-".join(filter(None, (_plain(str(name)), recipe)))
    ways = {**{key: given[key] for key in (*_COMPILE, "images") if key in given}, **network}
    compiling = [
        *("compile", network["model"], *precision_flags(precision), *_flags(network, _LOADING)),
        *flag_for("recipe", recipe),
        *_flags(ways, (*_COMPILE, "labels")),
    ]
    images = None
    if calibration := network.get("calibration"):
        compiling += flag_for("calibration", str(calibration))
    else:
        making = [
            *("synthesize", network["model"], *_flags(network, _LOADING)),
            *flag_for("recipe", recipe),
            *_flags(ways, _SYNTHESIS),
        ]
        images = Images(base, tuple(making))
    return Cell(f"{base}-{_plain(precision)}", tuple(compiling), images)


def _flags(values: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        value = values.get(name)
        if name == "batches" and value is not None and not value:
            found += flag_for("no_bench", True)
        else:
            found += flag_for(name, value)
    return found


def _plain(text: str) -> str:
    name = Path(text).resolve().name if Path(text).exists() else text
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _require_known(given: Mapping[str, Any], known: Sequence[str], source: str) -> None:
    for key in given:
        if key not in known:
            raise BadInput(
                f"{source} has the key {str(key)!r}, which is unknown{_nearest(str(key), known)}.",
                f"Known are {', '.join(known)}.",
            )


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else ""

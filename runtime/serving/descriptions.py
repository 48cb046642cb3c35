"""What a server says of a model, read from an answer that may hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mimiq.runtime.serving.packed import Tensor


@dataclass(frozen=True)
class ServedModel:
    """What a server says of a model.

    Attributes:
        name, platform: as the server has them.
        versions: those that can be asked for.
        inputs, outputs: without the batch.
        parameters: of its configuration, where the server shows one (Triton), else empty.
    """

    name: str
    platform: str
    versions: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, str]


def description(name: str, found: dict[str, Any]) -> ServedModel:
    """The words of a server, without its parameters.

    Args:
        name: that was asked for.
        found: the answer, an object of any kind.

    Raises:
        ValueError: it is no description of a model.
    """
    try:
        return ServedModel(
            name=str(found.get("name", name)),
            platform=str(found.get("platform", "")),
            versions=tuple(str(text) for text in found.get("versions") or ()),
            inputs=_tensors(found.get("inputs")),
            outputs=_tensors(found.get("outputs")),
            parameters={},
        )
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ValueError("its description of the model is not the protocol's") from error


def _tensors(found: Any) -> tuple[Tensor, ...]:
    return tuple(
        # gRPC's JSON writes 64-bit integers as text. The first dimension is the batch's.
        Tensor(str(entry["name"]), str(entry["datatype"]), tuple(map(int, entry["shape"][1:])))
        for entry in found or ()
    )

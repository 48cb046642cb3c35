"""What is asked of a source of networks, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.session import Output


@dataclass(frozen=True)
class Request:
    """A network as the user names it.

    Attributes:
        name: as it was written.
        weights: a file, instead of the source's own weights.
        untrained: random weights.
        num_classes: of the classifier; None follows the weights.
        image_size: height and width of the input; None follows the weights.
        ema: averaged weights, or not; None where the user did not say.
        model_kwargs: arguments of timm's constructor, for what the weights cannot say.
    """

    name: str
    weights: Path | None = None
    untrained: bool = False
    num_classes: int | None = None
    image_size: tuple[int, int] | None = None
    ema: bool | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Original:
    """A network before its attention is rewritten.

    Attributes:
        module: in eval mode, fp32, on the CPU.
        architecture: timm's name, or the library's and its type.
        preprocessing: from image file to network input.
        labels: class names, where the source knows them.
        output: what the network answers with.
        structure: what makes the function and is not in the weights.
        notes: what was decided while loading, sentences for the user.
    """

    module: nn.Module
    architecture: str
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None = None
    output: Output = "logits"
    structure: str = ""
    notes: tuple[str, ...] = ()

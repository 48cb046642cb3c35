"""The families that are known, in the order in which they are asked."""

from __future__ import annotations

from torch import nn

from mimiq.models.families.beit import BeitFamily
from mimiq.models.families.cait import CaitFamily
from mimiq.models.families.eva import EvaFamily
from mimiq.models.families.swin import SwinFamily, SwinV2Family
from mimiq.models.families.vit import ViTFamily
from mimiq.models.family import Family
from mimiq.models.refused import unknown_family

FAMILIES: tuple[Family, ...] = (
    ViTFamily(),
    BeitFamily(),
    EvaFamily(),
    SwinFamily(),
    SwinV2Family(),
    CaitFamily(),
)


def family_of(module: nn.Module, architecture: str) -> Family:
    """The family that describes a network.

    Args:
        module: as its library builds it.
        architecture: as errors call it.

    Raises:
        UnsupportedModel: none does.
    """
    for family in FAMILIES:
        if family.matches(module):
            return family
    raise unknown_family(module, architecture)

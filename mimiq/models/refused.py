"""Why networks of timm's other transformer classes are refused: what in them has no description."""

from __future__ import annotations

from torch import nn

from mimiq.errors import UnsupportedModel

_CONVOLUTIONS = "mixes attention with convolutional stages"
_POOLS = "pools queries, keys or values between its tokens"
_CONVOLUTIONAL = "is convolutional, and has no attention"
_ROPE_TOWER = "is the vision tower of a language model, with a projector of its own"

# Why, by the class of the network; each ends the sentence "it is of the class Name, which …".
WHY = {
    "CSATv2": _CONVOLUTIONS,
    "CoaT": "attends by factors of keys and values, with convolutional positions",
    "ConVit": "gates positions against content in its attention",
    "ConvNeXt": _CONVOLUTIONAL,
    "CPUBone": _CONVOLUTIONS,
    "CrossVit": "has two branches that attend to each other",
    "DaVit": "attends across channels as well as in windows",
    "DeepseekVitClassifier": _ROPE_TOWER,
    "DeepseekVitEncoder": _ROPE_TOWER,
    "EdgeNeXt": "attends across channels",
    "EfficientFormer": _CONVOLUTIONS,
    "EfficientFormerV2": _CONVOLUTIONS,
    "EfficientNet": _CONVOLUTIONAL,
    "EfficientVit": "attends linearly, without a softmax",
    "EfficientVitLarge": "attends linearly, without a softmax",
    "EfficientVitMsra": "hands the output of each head to the next",
    "FastVit": _CONVOLUTIONS,
    "Gemma4VitClassifier": _ROPE_TOWER,
    "Gemma4VitEncoder": _ROPE_TOWER,
    "GlobalContextVit": "has global queries beside those of its windows",
    "Hiera": _POOLS,
    "HieraDet": _POOLS,
    "IFormer": _CONVOLUTIONS,
    "Levit": "is built of batch norms and attention that skips tokens",
    "LevitDistilled": "is built of batch norms and attention that skips tokens",
    "LowFormer": _CONVOLUTIONS,
    "MaxxVit": _CONVOLUTIONS,
    "MetaFormer": _CONVOLUTIONS,
    "MobileNetV3": _CONVOLUTIONS,
    "MlpMixer": "mixes tokens by MLPs, and has no attention",
    "MobileNetV5": _CONVOLUTIONS,
    "MobileNetV5Encoder": _CONVOLUTIONS,
    "MultiScaleVit": _POOLS,
    "NaFlexVit": "takes images of any shape as patches with a mask",
    "Nest": "attends in blocks that convolutions and pooling join",
    "NextViT": _CONVOLUTIONS,
    "PoolingVisionTransformer": "pools its tokens by convolutions between stages",
    "PyramidVisionTransformerV2": _POOLS,
    "Qwen3VitClassifier": _ROPE_TOWER,
    "Qwen3VitEncoder": _ROPE_TOWER,
    "RegNet": _CONVOLUTIONAL,
    "ResNet": _CONVOLUTIONAL,
    "ResNetV2": _CONVOLUTIONAL,
    "SHViT": _CONVOLUTIONS,
    "SwiftFormer": "attends by sums, without a product of queries and keys",
    "SwinTransformerV2Cr": "is another form of Swin v2, with attention of its own",
    "TNT": "has a transformer over pixels inside that over patches",
    "TinyVit": _CONVOLUTIONS,
    "Twins": _POOLS,
    "VOLO": "attends by outlooks, whose weights are no product of queries and keys",
    "VisionTransformerSAM": "mixes windows with relative positions that queries multiply",
    "Visformer": _CONVOLUTIONS,
    "Xcit": "attends across channels",
}


def unknown_family(module: nn.Module, architecture: str) -> UnsupportedModel:
    """The error for a network that no family describes, with what it is where that is known."""
    name = type(module).__name__
    why = WHY.get(name)
    what = (
        f"{architecture} is of the class {name}, which {why}; mimiq does not compile such networks."
        if why
        else f"{architecture} is of the class {name}, no vision transformer that mimiq knows."
    )
    return UnsupportedModel(
        what, "Choose a ViT, DeiT, BEiT, EVA, DINOv3, CaiT or Swin from timm, e.g. deit_s."
    )

"""The smallest example of every kind of network that a family describes, as timm builds it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

_VIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 10,
}
_SWIN: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 2,
    "embed_dim": 32,
    "depths": (2, 2),
    "num_heads": (1, 2),
    "window_size": 4,
    "num_classes": 10,
}


def _vit(**changes: Any) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**_VIT | changes)


def _post_norm() -> nn.Module:
    from timm.models.vision_transformer import ResPostBlock

    return _vit(block_fn=ResPostBlock)


def _parallel(name: str, **changes: Any) -> nn.Module:
    from timm.models import vision_transformer

    return _vit(block_fn=getattr(vision_transformer, name), **changes)


def _aimv2() -> nn.Module:
    """RMSNorm, SwiGLU of two Linears, no biases."""
    from timm.layers import RmsNorm, SwiGLU

    return _vit(
        class_token=False,
        global_pool="avg",
        qkv_bias=False,
        proj_bias=False,
        mlp_layer=SwiGLU,
        norm_layer=RmsNorm,
    )


def _packed() -> nn.Module:
    """DINOv2's giant: SwiGLU of one Linear, LayerScale."""
    from timm.layers import SwiGLUPacked

    return _vit(mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, init_values=0.1)


def _hybrid() -> nn.Module:
    """A convolutional stem with standardised weights."""
    from timm.layers import HybridEmbed
    from timm.models.vision_transformer_hybrid import _resnetv2

    return _vit(patch_size=2, embed_layer=partial(HybridEmbed, backbone=_resnetv2(layers=())))


def _vitamin() -> nn.Module:
    """MBConv stages without a projection, GeGLU with a norm of its own."""
    from timm.layers import HybridEmbed
    from timm.models.vitamin import GeGluMlp, MbConvStages, VitCfg, VitConvCfg

    convolutions = VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
    stages = VitCfg((16, 32, 64), (1, 1, 1), stem_width=16, conv_cfg=convolutions)
    return _vit(
        patch_size=1,
        class_token=False,
        global_pool="avg",
        mlp_layer=GeGluMlp,
        embed_layer=partial(HybridEmbed, backbone=MbConvStages(stages), proj=False),
    )


def _beit(**changes: Any) -> nn.Module:
    from timm.models.beit import Beit

    return Beit(**_VIT | {"init_values": 0.1, "qkv_bias": True} | changes)


def _relative(**changes: Any) -> nn.Module:
    from timm.models.vision_transformer_relpos import VisionTransformerRelPos

    return VisionTransformerRelPos(**_VIT | changes)


def _relative_post_norm() -> nn.Module:
    from timm.models.vision_transformer_relpos import ResPostRelPosBlock

    return _relative(block_fn=ResPostRelPosBlock, class_token=True, global_pool="token")


def _eva(**changes: Any) -> nn.Module:
    from timm.models.eva import Eva

    return Eva(**_VIT | changes)


def _swin(**changes: Any) -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(**_SWIN | changes)


def _cait() -> nn.Module:
    from timm.models.cait import Cait

    return Cait(**_VIT, init_values=0.1, depth_token_only=2)


def _swin_v2() -> nn.Module:
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    return SwinTransformerV2(**_SWIN)


EXAMPLES: dict[str, Callable[[], nn.Module]] = {
    "vit": _vit,
    "deit3": partial(_vit, init_values=0.1, no_embed_class=True, reg_tokens=2),
    "post-norm": _post_norm,
    "dinov2-giant": _packed,
    "aimv2": _aimv2,
    "parallel": partial(_parallel, "ParallelScalingBlock", qk_norm=True, init_values=0.1),
    "parallel-unbiased": partial(_parallel, "ParallelScalingBlock", qkv_bias=False),
    "parallel-things": partial(_parallel, "ParallelThingsBlock", init_values=0.1),
    "hybrid": _hybrid,
    "vitamin": _vitamin,
    "beit": partial(_beit, use_abs_pos_emb=False, use_rel_pos_bias=True),
    "beit-shared": partial(_beit, use_shared_rel_pos_bias=True, swiglu_mlp=True),
    "relpos": partial(_relative, rel_pos_type="bias", init_values=0.1, fc_norm=True),
    "relpos-shared": partial(_relative, shared_rel_pos=True),
    "relpos-post-norm": _relative_post_norm,
    "eva": partial(_eva, init_values=0.1),
    "eva02": partial(
        _eva,
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(4, 4),
    ),
    "dinov3": partial(
        _eva,
        init_values=0.1,
        num_reg_tokens=2,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_rotate_half=True,
        global_pool="token",
    ),
    "rope-mixed": partial(
        _eva, attn_type="rope", use_rot_pos_emb=True, rope_type="mixed", class_token=False
    ),
    "eva-post-norm": partial(_eva, use_post_norm=True, use_fc_norm=True),
    "cait": _cait,
    "swin": _swin,
    "swin-padded": partial(_swin, img_size=24, window_size=5),
    "swin-v2": _swin_v2,
}

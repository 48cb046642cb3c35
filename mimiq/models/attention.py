"""Multi-head self-attention written out, so that its maps can be seen and its inputs quantised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

# Called with the index of the block and the tensor that passed there.
Observer = Callable[[int, torch.Tensor], None]


class ExplicitAttention(nn.Module):
    """Self-attention as two matrix products and a softmax; the weights are those of the original.

    The softmax scale 1/√d is applied as its square root on both q and k: TensorRT keeps the fused
    qkv product in INT8 only in that form, and half-precision scores overflow later.

    ``scores`` and ``heads`` are points to observe: they pass on the scores q·kᵀ/√d of shape
    (B, H, T, T) before the softmax and the head outputs (B, H, T, d) before concatenation. The four
    ``*_quantizer`` points are identities until :func:`mimiq.quantize.insert.quantize` fills them.

    Args:
        qkv: Linear from C to 3·H·d, output ordered (q, k, v) × heads × d.
        proj: Linear from H·d to C.
        num_heads: H.
        head_dim: d.
        num_prefix_tokens: class and register tokens, which are no part of a spatial map.
        q_norm, k_norm: applied over d before the scale; norm: over H·d before ``proj``.
    """

    def __init__(
        self,
        qkv: nn.Linear,
        proj: nn.Linear,
        *,
        num_heads: int,
        head_dim: int,
        num_prefix_tokens: int,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_prefix_tokens = num_prefix_tokens
        self.root_scale = head_dim**-0.25
        self.qkv = qkv
        self.q_norm = q_norm or nn.Identity()
        self.k_norm = k_norm or nn.Identity()
        self.q_quantizer: nn.Module = nn.Identity()
        self.k_quantizer: nn.Module = nn.Identity()
        self.v_quantizer: nn.Module = nn.Identity()
        self.scores = nn.Identity()
        self.probs_quantizer: nn.Module = nn.Identity()
        self.heads = nn.Identity()
        self.norm = norm or nn.Identity()
        self.proj = proj

    def forward(
        self,
        x: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> torch.Tensor:
        """Tokens (B, T, C) to (B, T, C). Masks are not part of image classification."""
        assert attn_mask is None
        assert not is_causal
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q = self.q_quantizer(self.q_norm(q) * self.root_scale)
        k = self.k_quantizer(self.k_norm(k) * self.root_scale)
        v = self.v_quantizer(v)
        probs = self.probs_quantizer(self.scores(q @ k.transpose(-2, -1)).softmax(dim=-1))
        heads = self.heads(probs @ v)
        merged = heads.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim)
        out: torch.Tensor = self.proj(self.norm(merged))
        return out


@contextmanager
def observe_attention(
    attentions: Iterable[ExplicitAttention],
    *,
    scores: Observer | None = None,
    heads: Observer | None = None,
) -> Iterator[None]:
    """Call the observers with ``(block index, tensor)`` in every forward inside the ``with``.

    Args:
        scores: sees (B, H, N, N): spatial queries and keys only, prefix tokens cut away.
        heads: sees (B, H, N, d): spatial tokens only.
    """
    handles = []
    for index, attention in enumerate(attentions):
        start = attention.num_prefix_tokens
        if scores is not None:
            handles.append(attention.scores.register_forward_hook(_call(scores, index, start, 2)))
        if heads is not None:
            handles.append(attention.heads.register_forward_hook(_call(heads, index, start, 1)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _call(observer: Observer, index: int, start: int, spatial_dims: int) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        observer(index, out[:, :, start:, start:] if spatial_dims == 2 else out[:, :, start:])

    return hook

"""Multi-head self-attention written out, so that its maps can be seen and its inputs quantised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

# Called with the index of the attention and the tensor that passed there.
Observer = Callable[[int, torch.Tensor], None]


class RotaryEmbedding(nn.Module):
    """Rotary position embedding with its angles as constants, channel i turned with i + d/2.

    Args:
        cos, sin: (T, d), of tokens that have no position 1 and 0; the sine's first half negated.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, cos: torch.Tensor, sin: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, T, d) to the same."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([second, first], dim=-1) * self.sin


class UnitNorm(nn.Module):
    """Vectors (…, d) of length one; shorter ones than ``eps`` stay shorter."""

    def __init__(self, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.square().sum(-1, keepdim=True).sqrt()
        return x / length.clamp_min(self.eps)


class HeadMixing(nn.Module):
    """A Linear over the heads, at every pair of tokens, as talking heads have it.

    Written as a convolution of one pixel, and never quantised: H × H weights for T × T scores.

    Args:
        linear: from H to H.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach()[:, :, None, None].clone())
        self.bias = nn.Parameter(linear.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, T, T) to the same."""
        return F.conv2d(x, self.weight, self.bias)


class ExplicitAttention(nn.Module):
    """Self-attention as two matrix products and a softmax; the weights are those of the original.

    The softmax scale 1/√d is applied as its square root on both q and k: TensorRT keeps the fused
    qkv product in INT8 only in that form, and half-precision scores overflow later.

    ``scores`` and ``heads`` are points to observe: they pass on the scores q·kᵀ/√d of shape
    (B, H, T, T), before bias, mask and softmax, and the head outputs (B, H, T, d) before
    concatenation. The four ``*_quantizer`` points are identities until
    :func:`mimiq.quantize.insert.quantize` fills them.

    Whatever a network adds to the scores is a constant here. Attention in windows takes each as an
    image of its own: B is images × windows then, the windows of an image side by side.

    Args:
        qkv: Linear from C to 3·H·d, output ordered (q, k, v) × heads × d.
        proj: Linear from H·d to C.
        num_heads: H.
        head_dim: d.
        num_prefix_tokens: class and register tokens, which are no part of a spatial map.
        q_norm, k_norm: applied over d before the scale; norm: over H·d before ``proj``.
        rope: turns q and k by their positions.
        bias: (1, H, T, T), added to the scores of every window.
        mask: (windows, 1, T, T), added to the scores of each.
        windows: of an image.
        root_scale: the square root of the softmax scale, a tensor (H, 1, 1) where heads differ.
        mix_scores, mix_probs: over (B, H, T, T) before and after the softmax, each head's from all
            heads'.
    """

    bias: torch.Tensor | None
    mask: torch.Tensor | None

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
        rope: RotaryEmbedding | None = None,
        bias: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        windows: int = 1,
        root_scale: torch.Tensor | None = None,
        mix_scores: HeadMixing | None = None,
        mix_probs: HeadMixing | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_prefix_tokens = num_prefix_tokens
        self.windows = windows
        self.root_scale: torch.Tensor | float
        if root_scale is None:
            self.root_scale = head_dim**-0.25
        else:
            self.register_buffer("root_scale", root_scale, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.qkv = qkv
        self.q_norm = q_norm or nn.Identity()
        self.k_norm = k_norm or nn.Identity()
        self.rope = rope
        self.q_quantizer: nn.Module = nn.Identity()
        self.k_quantizer: nn.Module = nn.Identity()
        self.v_quantizer: nn.Module = nn.Identity()
        self.scores = nn.Identity()
        self.mix_scores: nn.Module = mix_scores or nn.Identity()
        self.mix_probs: nn.Module = mix_probs or nn.Identity()
        self.probs_quantizer: nn.Module = nn.Identity()
        self.heads = nn.Identity()
        self.norm = norm or nn.Identity()
        self.proj = proj

    @property
    def mixes_heads(self) -> bool:
        """Whether what weighs the values is no probability: heads' are mixed, with either sign."""
        return not isinstance(self.mix_probs, nn.Identity)

    @property
    def rotatable(self) -> bool:
        """Whether q and k of a head may be turned alike, their products staying what they are."""
        norms = (self.q_norm, self.k_norm)
        return self.rope is None and all(isinstance(n, nn.Identity | UnitNorm) for n in norms)

    def forward(
        self,
        x: torch.Tensor,
        *,
        is_causal: bool = False,
        **positions: torch.Tensor | None,
    ) -> torch.Tensor:
        """Tokens (B, T, C) to (B, T, C).

        Args:
            is_causal: never: this is image classification.
            positions: what callers of the original hand over, always None: see ``bias``, ``rope``.
        """
        assert not is_causal
        assert all(position is None for position in positions.values())
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None:
            q, k = self.rope(q), self.rope(k)
        q = self.q_quantizer(q * self.root_scale)
        k = self.k_quantizer(k * self.root_scale)
        v = self.v_quantizer(v)
        scores = self._biased(self.mix_scores(self.scores(q @ k.transpose(-2, -1))))
        probs = self.probs_quantizer(self.mix_probs(scores.softmax(dim=-1)))
        heads = self.heads(probs @ v)
        merged = heads.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim)
        out: torch.Tensor = self.proj(self.norm(merged))
        return out

    def _biased(self, scores: torch.Tensor) -> torch.Tensor:
        if self.bias is not None:
            scores = scores + self.bias
        if self.mask is not None:
            masked = scores.reshape(-1, self.windows, *scores.shape[1:]) + self.mask
            scores = masked.reshape(scores.shape)
        return scores


@contextmanager
def observe_attention(
    attentions: Iterable[ExplicitAttention],
    *,
    scores: Observer | None = None,
    heads: Observer | None = None,
) -> Iterator[None]:
    """Call the observers with ``(index, tensor)`` in every forward inside the ``with``.

    Both see B images first, whatever the windows, and no prefix tokens.

    Args:
        scores: sees (B, H, queries, keys) before bias and mask: the N spatial tokens both times, or
            all queries of an image and the keys of their window.
        heads: sees (B, H, N, d), each window's heads as heads of their own, windows first:
            (B, windows·H, tokens of a window, d).
    """
    handles = []
    for index, attention in enumerate(attentions):
        if scores is not None:
            see = _seeing_scores(scores, index, attention)
            handles.append(attention.scores.register_forward_hook(see))
        if heads is not None:
            see = _seeing_heads(heads, index, attention)
            handles.append(attention.heads.register_forward_hook(see))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _seeing_scores(
    observer: Observer, index: int, attention: ExplicitAttention
) -> Callable[..., None]:
    start, windows = attention.num_prefix_tokens, attention.windows

    def hook(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        out = out[:, :, start:, start:]
        if windows > 1:
            out = out.unflatten(0, (-1, windows)).transpose(1, 2).flatten(2, 3)
        observer(index, out)

    return hook


def _seeing_heads(
    observer: Observer, index: int, attention: ExplicitAttention
) -> Callable[..., None]:
    start, windows = attention.num_prefix_tokens, attention.windows

    def hook(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        out = out[:, :, start:]
        if windows > 1:
            out = out.unflatten(0, (-1, windows)).flatten(1, 2)
        observer(index, out)

    return hook

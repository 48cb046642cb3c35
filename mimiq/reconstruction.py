"""Weights fitted, layer by layer, to what the full-precision network computes there.

Once its input is rounded, a Linear's own weights are no longer the best ones: least squares on the
calibration images find those that bring its output nearest to the original's. What earlier layers
did wrong is in the residual stream, so a Linear that adds to the stream is fitted to the stream
itself and makes up for them as far as its input tells. It is the reconstruction of Nagel et al.
(AdaRound, ICML 2020, equation 21) and Li et al. (BRECQ, ICLR 2021), solved in closed form and
damped towards the trained weights; rounding follows by :func:`mimiq.rounding.gptq`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mimiq.calibrate.observers import mse_weight_scale
from mimiq.fake_quant import Quantizer, QuantLinear, quant_layers
from mimiq.importance import prefix_shares
from mimiq.models.family import Family
from mimiq.precision import Precision
from mimiq.rounding import gptq
from mimiq.sampling import evenly_spread, watch_inputs

# At most; evenly spread over those given. DeiT-T, 720 images instead of 384: logit error on
# photographs and on real images at W4A8 8.4 → 8.2 and 9.0 → 8.6 %.
IMAGES = 1024

# Of the mean diagonal of XᵀX. At 0.03 and 0.5 the fit was better on the images it was made from and
# worse on others of the same kinds, than at 2 to 8, which are alike (DeiT-T, W4A4, 192 images).
_DAMPING = 4.0

# Of the squared error, for the tokens that the head reads: one of hundreds. Their own share in what
# errors do to the answer, between these; near 1 a few hundred rows would decide alone. DeiT-T,
# logit error on held-out synthetic images at W4A4 and W4 in blocks of 64: 0.1 throughout 30.6 and
# 4.13 %, at most 0.3 and 4.08, at most 0.5 27.2 and 4.01, at most 0.8 4.30.
_PREFIX_SHARE = 0.1
_PREFIX_SHARES = (0.05, 0.5)


@torch.no_grad()
def reconstruct(
    family: Family,
    reference: nn.Module,
    module: nn.Module,
    precision: Precision,
    images: torch.Tensor,
    *,
    refit: bool = True,
    compensate: bool = True,
    importance: bool = True,
    batch_size: int = 32,
) -> None:
    """Fit the Linears of every block of ``module`` in place, in the order in which data meets them.

    Args:
        reference: ``module`` before quantisers were put in.
        module: quantisers in place, scales set.
        images: (B, 3, S, S), normalised.
        refit: fit weights and biases to the reference.
        compensate: then round weights below 8 bits so that errors compensate.
        importance: prefix tokens count by what they do to the answer, not a tenth everywhere.
    """
    names = {layer: name for name, layer in quant_layers(module).items()}
    chosen = images[evenly_spread(len(images), IMAGES)]
    streams = [
        _Streams(family.embed(module)(batch), family.embed(reference)(batch))
        for batch in chosen.split(batch_size)
    ]
    prefix = next((part.num_prefix_tokens for part in family.attentions(reference)), 0)
    shares: dict[str, float] = {}
    if importance and prefix and names:
        originals = {name: reference.get_submodule(name) for name in names.values()}
        shares = prefix_shares(reference, originals, prefix, images)
    for block, original in zip(family.blocks(module), family.blocks(reference), strict=True):
        readers = family.stream_readers(block)
        for name, layer in list(block.named_modules()):
            if not isinstance(layer, QuantLinear):
                continue
            bits = precision.of(names[layer]).weight_bits or 16
            rounds = compensate and bits < 8
            if not (refit or rounds):
                continue
            pair = _Pair(block, original, name, readers.get(name, name))
            share = shares.get(names[layer], _PREFIX_SHARE)
            weights = row_weights(streams[0].reference.shape[1], prefix, share)
            moments = _moments(pair, layer, streams, weights)
            if refit:
                _refit(layer, moments)
            if rounds:
                hessian = moments.inputs[:-1, :-1].float()
                layer.weight.copy_(gptq(layer.weight, hessian, layer.weight_quantizer))
        streams = [
            _Streams(block(stream.quantized), original(stream.reference)) for stream in streams
        ]


@dataclass(frozen=True)
class _Streams:
    """The tokens (B, T, C) that enter a block, in both networks."""

    quantized: torch.Tensor
    reference: torch.Tensor


class _Reached(Exception):
    """Ends a block's forward where its place is: the rest of it is not needed."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.tensor = tensor


@dataclass(frozen=True)
class _Pair:
    """A block, its original, and the place where a layer of it is compared.

    Attributes:
        layer: the layer's name in the block.
        place: the layer's name again, whose output is compared then; or the name of the part that
            reads the stream next, whose input is; or empty, for the block's output.
    """

    block: nn.Module
    original: nn.Module
    layer: str
    place: str

    def run(self, streams: _Streams) -> tuple[torch.Tensor, torch.Tensor]:
        """(the layer's input in the quantised block, how far its place is from the original's)."""
        inputs: list[torch.Tensor] = []
        layer = self.block.get_submodule(self.layer)
        with watch_inputs({self.layer: layer}, lambda _, x: inputs.append(x)):
            found = self._at_place(self.block, streams.quantized)
        return inputs[0], self._at_place(self.original, streams.reference) - found

    def _at_place(self, block: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        if not self.place:
            out: torch.Tensor = block(tokens)
            return out
        part = block.get_submodule(self.place)

        def hook(_module: nn.Module, inputs: tuple[Any, ...], *output: torch.Tensor) -> None:
            raise _Reached(output[0] if output else inputs[0])

        own = self.place == self.layer
        handle = (part.register_forward_hook if own else part.register_forward_pre_hook)(hook)
        try:
            block(tokens)
        except _Reached as reached:
            return reached.tensor
        finally:
            handle.remove()
        raise AssertionError(f"{self.place} takes no part in the block")


@dataclass(frozen=True)
class _Moments:
    """Sums over rows x, the layer's quantised input with a one behind it, and errors d.

    Attributes:
        inputs: xxᵀ, fp64 (K + 1, K + 1).
        errors: dxᵀ, fp64 (N, K + 1).
    """

    inputs: torch.Tensor
    errors: torch.Tensor


def _moments(
    pair: _Pair, layer: QuantLinear, streams: list[_Streams], row_weights: torch.Tensor
) -> _Moments:
    size, device = layer.in_features, layer.weight.device
    inputs = torch.zeros(size + 1, size + 1, dtype=torch.float64, device=device)
    errors = torch.zeros(layer.out_features, size + 1, dtype=torch.float64, device=device)
    weight = row_weights.to(device).sqrt().unsqueeze(1)
    for x, d in _compared(pair, layer, streams):
        x = torch.cat([x, torch.ones_like(x[..., :1])], -1).float() * weight
        x, d = x.flatten(0, 1), (d.float() * weight).flatten(0, 1)
        inputs += (x.T @ x).double()
        errors += (d.T @ x).double()
    return _Moments(inputs, errors)


def _compared(
    pair: _Pair, layer: QuantLinear, streams: list[_Streams]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(quantised inputs, errors) of the layer with its weight not rounded, batch by batch."""
    quantizer, layer.weight_quantizer = layer.weight_quantizer, nn.Identity()
    for stream in streams:
        x, error = pair.run(stream)
        yield layer.input_quantizer(x), error
    layer.weight_quantizer = quantizer


def row_weights(tokens: int, prefix: int, share: float = _PREFIX_SHARE) -> torch.Tensor:
    """fp32 (tokens,): one for spatial tokens, for the first ``prefix`` what gives ``share``."""
    weights = torch.ones(tokens)
    if 0 < prefix < tokens:
        share = min(max(share, _PREFIX_SHARES[0]), _PREFIX_SHARES[1])
        weights[:prefix] = max(share / (1 - share) * (tokens - prefix) / prefix, 1.0)
    return weights


def _refit(layer: QuantLinear, moments: _Moments) -> None:
    """Ridge regression of the errors on the inputs, added to the weights; scales follow."""
    damped = moments.inputs.clone()
    diagonal = damped.diagonal()[:-1]  # the bias is not damped
    diagonal.add_(_DAMPING * diagonal.mean() + torch.finfo(torch.float32).tiny)
    change = torch.linalg.solve(damped, moments.errors.T).T.float()
    layer.weight.add_(change[:, :-1])
    if layer.bias is not None:
        layer.bias.add_(change[:, -1])
    quantizer = layer.weight_quantizer
    if isinstance(quantizer, Quantizer):
        quantizer.set_scale(
            mse_weight_scale(layer.weight, quantizer.grid, quantizer.axis, quantizer.block_size)
        )

"""How much of what an error does to the answer comes through the tokens that the head reads.

The head of a ViT reads the class token alone. An error in another token has to pass through
attention to matter, and in the last blocks it hardly can: what is fitted to all tokens alike is
fitted to those that do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mimiq.quantize.hooks import evenly_spread, watch_inputs

IMAGES = 48  # at most: the shares of 48 and of 96 differ by no more than 0.03 (DeiT-T)


def prefix_shares(
    module: nn.Module,
    layers: Mapping[str, nn.Module],
    prefix: int,
    images: torch.Tensor,
    *,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, float]:
    """The share, in [0, 1], of the ``prefix`` first tokens in what an error of each layer does.

    For white noise on the output (B, T, N) of a layer it is the share of these tokens in the
    expected squared change of the logits, to first order: the squared gradient of the logits'
    projection on random directions (Hutchinson's estimate of the trace of JᵀJ).

    Args:
        module: in floating point; gradients pass through it, none are kept.
        layers: of ``module``, by name; those whose output has no tokens are left out.
        images: (B, C, H, W), normalised.
        seed: of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    shares = {name: torch.zeros(2) for name in layers}
    chosen = images[evenly_spread(len(images), IMAGES)]
    for batch in chosen.split(batch_size):
        _, gradients = _random_gradients(module, layers, batch, generator)
        for name, gradient in gradients.items():
            if gradient.ndim != 3:
                continue
            power = gradient.square().sum((0, 2)).cpu()
            shares[name] += torch.stack([power[:prefix].sum(), power.sum()])
    return {name: float(part / whole) for name, (part, whole) in shares.items() if whole > 0}


def weighed_inputs(
    module: nn.Module,
    layers: Mapping[str, nn.Module],
    images: torch.Tensor,
    see: Callable[[str, torch.Tensor, torch.Tensor], None],
    *,
    batch_size: int = 8,
    seed: int = 0,
) -> None:
    """Show the inputs of ``layers``, with what an error of their outputs does to the answer.

    To first order, errors e of the output rows change the logits by a mean square of
    ``Σ weight · ‖e‖²``, over the logits' variance, if they lie in no special direction: the weight
    of a row is the mean squared gradient of the logits' projection on a random direction
    (Hutchinson's estimate of the trace of JᵀJ), over classes and images.

    Args:
        module: in floating point; gradients pass through it, none are kept.
        layers: of ``module``, by name.
        images: (B, C, H, W), normalised.
        see: called once a batch and layer with its name, inputs (n, K) and weights (n,).
        seed: of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    for batch in images.split(batch_size):
        inputs: dict[str, torch.Tensor] = {}
        with watch_inputs(layers, inputs.__setitem__):
            logits, gradients = _random_gradients(module, layers, batch, generator)
        variance = float(logits.var()) or 1.0
        for name, gradient in gradients.items():
            share = logits.shape[-1] * variance * len(images)
            power = gradient.square().mean(-1).flatten() / share
            see(name, inputs[name].reshape(-1, inputs[name].shape[-1]).float(), power)


def _random_gradients(
    module: nn.Module,
    layers: Mapping[str, nn.Module],
    batch: torch.Tensor,
    generator: torch.Generator,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits, and the gradient of their projection on random directions at each output.

    A layer whose output the answer does not depend on is left out.
    """
    with torch.enable_grad(), _kept_outputs(layers) as outputs:
        logits = module(batch.detach().requires_grad_())
        directions = torch.randn(logits.shape, generator=generator).to(logits)
        gradients: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
            (logits * directions).sum(), list(outputs.values()), allow_unused=True
        )
    found = zip(outputs, gradients, strict=True)
    return logits.detach(), {name: each for name, each in found if each is not None}


@contextmanager
def _kept_outputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    outputs: dict[str, torch.Tensor] = {}

    def hook_for(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: tuple[Any, ...], out: torch.Tensor) -> None:
            outputs[name] = out

        return hook

    handles = [layer.register_forward_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

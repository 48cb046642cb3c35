"""Weights fitted, layer by layer, to what the full-precision network computes there.

Once its input is rounded, a Linear's own weights are no longer the best ones: least squares on the
calibration images find those that bring its output nearest to the original's. What earlier layers
did wrong is in the residual stream, so a Linear that adds to the stream is fitted to the stream
itself and makes up for them as far as its input tells. It is the reconstruction of Nagel et al.
(AdaRound, ICML 2020, equation 21) and Li et al. (BRECQ, ICLR 2021), solved in closed form and
damped towards the trained weights; rounding follows by :func:`mimiq.quantize.gptq.gptq`.

How much each Linear is fitted, and how it is rounded, is decided on images held out from that: the
squared error is a quadratic form in the weights, so its moments on one half of the images judge
what was fitted to the other. The halves are the first and the last images, which are of different
kinds where scenes stand before synthetic images: a network meets images of yet another kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mimiq.calibrate.weight_scale import mse_weight_scale
from mimiq.config.precision import Precision
from mimiq.models.family import Family
from mimiq.progress import SILENT_STAGE, Stage
from mimiq.quantize.fake_quant import Quantizer
from mimiq.quantize.gptq import element_scales, gptq
from mimiq.quantize.hooks import evenly_spread
from mimiq.quantize.importance import prefix_shares
from mimiq.quantize.layers import QuantLinear, quant_layers, without_columns
from mimiq.quantize.moments import Moments, gram, own_rows, summed
from mimiq.quantize.walk import Rows, Visit, visits, walk

# At most; evenly spread over those given. DeiT-T, 720 images instead of 384: logit error on
# photographs and on real images at W4A8 8.4 → 8.2 and 9.0 → 8.6 %.
IMAGES = 1024

_FOLDS = 2
# Less than 4 looks better on images held out, and is worse on photographs at W4A4 (two networks).
_DAMPINGS = (16.0, 4.0)  # of the mean diagonal of XᵀX
_TIE = 1.01  # errors up to this many times the least count as equally good: the damped one is kept

# Of the squared error, for the tokens that the head reads: one of hundreds. Their own share in what
# errors do to the answer, between these; near 1 a few hundred rows would decide alone.
_PREFIX_SHARE = 0.1
_PREFIX_SHARES = (0.05, 0.5)


@dataclass(frozen=True)
class Fit:
    """What was found best for one Linear.

    Attributes:
        layer: module name.
        damping: of the fit, in the mean diagonal of XᵀX; None where the trained weights stay.
        compensated: whether rounding errors make up for each other.
        error: on images held out, over that of the trained weights rounded to nearest.
    """

    layer: str
    damping: float | None
    compensated: bool
    error: float


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
    stage: Stage = SILENT_STAGE,
) -> list[Fit]:
    """Fit the Linears of every block of ``module`` in place, in the order in which data meets them.

    Args:
        reference: ``module`` before quantisers were put in.
        module: quantisers in place, scales set.
        images: (B, C, H, W), normalised; four at least.
        refit: fit weights and biases to the reference, where that holds on other images.
        compensate: round weights below 8 bits so that errors compensate, likewise.
        importance: prefix tokens count by what they do to the answer, not a tenth everywhere.
        stage: told how many layers are done.
    """
    chosen = images[evenly_spread(len(images), IMAGES)]
    prefix = next((part.num_prefix_tokens for part in family.attentions(reference)), 0)
    shares: dict[str, float] = {}
    originals = {name: reference.get_submodule(name) for name in quant_layers(module)}
    if importance and prefix and originals:
        shares = prefix_shares(reference, originals, prefix, images)
    fits, total = [], visits(family, module)
    own = own_rows(len(chosen), batch_size)
    seen = walk(family, reference, module, chosen[own], batch_size=batch_size)
    for done, visit in enumerate(seen):
        stage.update(done, total=total)
        bits = precision.of(visit.name).weight_bits or 16
        rounds = compensate and bits < 8
        if refit or rounds:
            share = shares.get(visit.name, _PREFIX_SHARE)
            moments = summed(_moments(visit, prefix, share, own, len(chosen)))
            fits.append(_fit(visit.name, visit.layer, moments, refit=refit, rounds=rounds))
    stage.update(total)
    return fits


def row_weights(tokens: int, prefix: int, share: float = _PREFIX_SHARE) -> torch.Tensor:
    """fp32 (tokens,): one for spatial tokens, for the first ``prefix`` what gives ``share``."""
    weights = torch.ones(tokens)
    if 0 < prefix < tokens:
        share = min(max(share, _PREFIX_SHARES[0]), _PREFIX_SHARES[1])
        weights[:prefix] = max(share / (1 - share) * (tokens - prefix) / prefix, 1.0)
    return weights


def _moments(
    visit: Visit, prefix: int, share: float, own: Sequence[int], count: int
) -> list[Moments]:
    """Of each half of the ``count`` images; of one alone, the one.

    Args:
        own: which of the images the visit shows; of several ranks each sees its share.
    """
    layer, errors = visit.layer, visit.errors()
    width = layer.in_features + 1
    whole = width + layer.out_features if errors is None else errors.shape[1]
    folds = {
        fold: torch.zeros(whole, whole, dtype=torch.float64, device=layer.weight.device)
        for fold in sorted({_FOLDS * index // count for index in range(count)})
    }
    seen = 0
    for rows in visit.rows():
        x = rows.inputs.float()
        if layer.outliers:  # exact as they are, and no business of the integers
            x = without_columns(x, layer.outliers)
        weight = _token_weights(rows, prefix, share).sqrt().expand(*x.shape[:2], 1)
        z = torch.cat([x * weight, weight, rows.lacking.float() * weight], -1)
        of = [_FOLDS * index // count for index in own[seen : seen + len(x)]]
        seen += len(x)
        for fold in sorted(set(of)):
            part = slice(of.index(fold), of.index(fold) + of.count(fold))
            folds[fold] += gram(z[part].flatten(0, 1))
    return [Moments.of(rows, errors, width) for rows in folds.values()]


def _token_weights(rows: Rows, prefix: int, share: float) -> torch.Tensor:
    """What errors of each token count, (B, T, 1).

    LayerNorm divides a token of the stream by its deviation over the channels, errors included.
    """
    tokens = rows.inputs.shape[1]
    weights = row_weights(tokens, prefix, share).to(rows.inputs.device).reshape(1, tokens, 1)
    if rows.stream is None:
        return weights
    variance = rows.stream.float().var(-1, keepdim=True)
    return weights * (variance.median() / variance.clamp_min(1e-12)).clamp_max(1.0)


def _fit(
    name: str, layer: QuantLinear, moments: list[Moments], *, refit: bool, rounds: bool
) -> Fit:
    """The best of what may be done to one Linear, judged by images held out, done to it."""
    whole = sum(moments[1:], moments[0])
    halves = len(moments) > 1
    others = [whole - fold if halves else whole for fold in moments]
    fits: dict[float | None, list[torch.Tensor | None]] = {None: [None] * len(moments)}
    if refit and halves:
        fits |= _fits(whole, moments, others)
    # By damping, for each of the others and, last, for the whole.
    changes = {
        damp: [*each, None if damp is None else whole.solve(damp)] for damp, each in fits.items()
    }
    rounded = _rounded(layer, [*others, whole], changes, rounds)
    errors = {
        (damp, compensate): sum(
            fold.error(_added(layer, weight, change))
            for fold, weight, change in zip(moments, weights, changes[damp], strict=False)
        )
        for (damp, compensate), weights in rounded.items()
    }
    best = min(errors, key=lambda candidate: errors[candidate])
    damp, compensate = best
    _change(layer, changes[damp][-1], rounded[best][-1] if compensate else None)
    nearest = errors[None, False]
    return Fit(name, *best, error=errors[best] / nearest if nearest > 0 else 1.0)


def _fits(
    whole: Moments, folds: list[Moments], others: list[Moments]
) -> dict[float | None, list[torch.Tensor | None]]:
    """The damping whose fits to the ``others`` of each fold err least on it, with these fits.

    None at all where the trained weights err less.
    """
    fits = {damping: [each.solve(damping) for each in others] for damping in _DAMPINGS}
    errors = {
        damping: sum(fold.error(change) for fold, change in zip(folds, changes, strict=True))
        for damping, changes in fits.items()
    }
    least = min(errors.values())
    if least >= whole.power:
        return {}
    best = next(damping for damping, error in errors.items() if error <= _TIE * least)
    return {best: [*fits[best]]}


def _rounded(
    layer: QuantLinear,
    moments: list[Moments],
    changes: dict[float | None, list[torch.Tensor | None]],
    rounds: bool,
) -> dict[tuple[float | None, bool], list[torch.Tensor]]:
    """The rounded weights (N, K) of each candidate, one for each of the moments.

    Args:
        moments: of the inputs that errors of rounding compensate on.
        changes: of weights and bias by damping, (N, K + 1), one for each of the moments; None to
            leave them as trained.
        rounds: whether there is a candidate that compensates.
    """
    quantizer = layer.weight_quantizer
    fitted = {
        damp: [_fitted(layer.weight, change) for change in each] for damp, each in changes.items()
    }
    if not isinstance(quantizer, Quantizer):
        return {(damp, False): weights for damp, weights in fitted.items()}
    rounded: dict[tuple[float | None, bool], list[torch.Tensor]] = {}
    scales: list[torch.Tensor] = []
    for damp, weights in fitted.items():
        rounded[damp, False] = []
        for weight in weights:
            _set_scale(quantizer, weight)
            rounded[damp, False].append(quantizer(weight))
            scales.append(element_scales(quantizer, weight))
    if rounds:
        count = len(moments)
        together = gptq(
            torch.stack([torch.cat(each) for each in zip(*fitted.values(), strict=True)]),
            torch.stack([_hessian(each) for each in moments]),
            torch.stack([torch.cat(scales[index::count]) for index in range(count)]),
            quantizer.grid,
        )
        parts = together.split(len(layer.weight), 1)
        rounded |= {(damp, True): list(part) for damp, part in zip(fitted, parts, strict=True)}
    return rounded


def _added(layer: QuantLinear, weight: torch.Tensor, change: torch.Tensor | None) -> torch.Tensor:
    """What a candidate of rounded ``weight`` adds to weights and bias, fp32 (N, K + 1)."""
    bias = weight.new_zeros(len(weight), 1)
    if change is not None and layer.bias is not None:
        bias = change[:, -1:]
    return torch.cat([weight - layer.weight, bias], 1)


def _change(layer: QuantLinear, change: torch.Tensor | None, rounded: torch.Tensor | None) -> None:
    """Fit, and round where errors compensate: rounding to nearest is left to the quantiser.

    Args:
        change: of weights and bias, fp32 (N, K + 1); None to leave them as trained.
        rounded: the weights whose errors compensate, (N, K).
    """
    layer.weight.copy_(_fitted(layer.weight, change))
    if change is not None and layer.bias is not None:
        layer.bias.add_(change[:, -1])
    if isinstance(layer.weight_quantizer, Quantizer):
        _set_scale(layer.weight_quantizer, layer.weight)
    if rounded is not None:
        layer.weight.copy_(rounded)


def _fitted(weight: torch.Tensor, change: torch.Tensor | None) -> torch.Tensor:
    return weight if change is None else weight + change[:, :-1]


def _set_scale(quantizer: Quantizer, weight: torch.Tensor) -> None:
    quantizer.set_scale(
        mse_weight_scale(weight, quantizer.grid, quantizer.axis, quantizer.block_size)
    )


def _hessian(moments: Moments) -> torch.Tensor:
    """XᵀX of a Linear's inputs, fp32 (K, K)."""
    return moments.inputs[:-1, :-1].float()

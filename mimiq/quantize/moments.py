"""Second moments of a Linear's inputs and errors: sums, to which every rank adds its images'."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mimiq import ranks

_COLUMNS = 256  # of a product at a time


@dataclass(frozen=True)
class Moments:
    """Weighed sums over rows x, a layer's quantised input with a one behind it, and errors d.

    Attributes:
        inputs: xxᵀ, fp64 (K + 1, K + 1).
        errors: dxᵀ, fp64 (N, K + 1).
        power: ‖d‖².
    """

    inputs: torch.Tensor
    errors: torch.Tensor
    power: float

    @classmethod
    def of(cls, rows: torch.Tensor, errors: torch.Tensor | None, width: int) -> Moments:
        """Those of rows z, which begin with x, where the errors are d = Ez.

        Args:
            rows: zzᵀ, fp64 (Z, Z).
            errors: E, (N, Z); None where what follows x in z are the errors.
            width: of x, K + 1.
        """
        if errors is None:
            found, power = rows[width:], float(rows[width:, width:].trace())
        else:
            found = errors.to(rows) @ rows
            power = float((found * errors).sum())
        return cls(rows[:width, :width].clone(), found[:, :width].clone(), max(power, 0.0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.inputs + other.inputs, self.errors + other.errors, self.power + other.power
        )

    def __sub__(self, other: Moments) -> Moments:
        return Moments(
            self.inputs - other.inputs, self.errors - other.errors, self.power - other.power
        )

    def error(self, change: torch.Tensor) -> float:
        """Σ ‖d − Δx‖² once ``change`` Δ (N, K + 1) is added to weights and bias."""
        change = change.double()
        quadratic = float(((change @ self.inputs) * change).sum())
        # A sum of squares, which rounding could leave below zero where nothing is left of it.
        return max(self.power - 2 * float((change * self.errors).sum()) + quadratic, 0.0)

    def solve(self, damping: float) -> torch.Tensor:
        """The Δ of least error, damped by ``damping`` times the mean diagonal; fp32 (N, K + 1)."""
        damped = self.inputs.clone()
        diagonal = damped.diagonal()[:-1]  # the bias is not damped
        diagonal.add_(damping * diagonal.mean() + torch.finfo(torch.float32).tiny)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if failed:  # not positive: rounding of a singular matrix
            change: torch.Tensor = torch.linalg.lstsq(damped, self.errors.T).solution
        else:
            change = torch.cholesky_solve(self.errors.T, factor)
        fp32: torch.Tensor = change.T.float()
        return fp32


def gram(x: torch.Tensor) -> torch.Tensor:
    """xᵀx of ``x`` (n, K), its upper half computed and mirrored."""
    width = x.shape[1]
    out = x.new_empty(width, width)
    for start in range(0, width, _COLUMNS):
        end = min(start + _COLUMNS, width)
        torch.mm(x[:, start:end].T, x[:, start:], out=out[start:end, start:])
        out[end:, start:end] = out[start:end, end:].T
    return out


def own_rows(count: int, batch_size: int) -> list[int]:
    """The images of this rank: every so many whole batches, which are summed as one rank would."""
    group = ranks.current()
    return [index for index in range(count) if index // batch_size % group.world == group.rank]


def summed(moments: list[Moments]) -> list[Moments]:
    """The moments of all ranks' images together, the same on every rank."""
    group = ranks.current()
    if group.world == 1:
        return moments
    powers = torch.tensor([of.power for of in moments], dtype=torch.float64)
    powers = powers.to(moments[0].inputs.device)
    group.sum_([*(part for of in moments for part in (of.inputs, of.errors)), powers])
    return [
        Moments(of.inputs, of.errors, power)
        for of, power in zip(moments, powers.tolist(), strict=True)
    ]

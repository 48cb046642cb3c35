"""Rotations that fold into the weights: the same network in a basis without outlier channels.

A few channels of a transformer's residual stream, queries and keys are far larger than the rest,
and a scale per tensor spends its levels on them. Turned by a random orthogonal matrix all channels
are alike (Ashkboos et al., QuaRot, NeurIPS 2024, section 4). Nothing is computed for it when the
network runs: whatever writes to the stream writes turned, and whatever reads it turns back.
LayerNorm subtracts the mean over channels, so the stream's rotation keeps the direction in which
all channels are equal.
"""

from __future__ import annotations

import torch
from torch import nn

from mimiq.models.attention import ExplicitAttention
from mimiq.models.family import Family, Stream


@torch.no_grad()
def rotate(family: Family, module: nn.Module, seed: int = 0) -> list[Stream]:
    """Turn the streams of ``module``, and the queries and keys of each head, in place.

    Returns:
        The streams that could be turned.
    """
    generator = torch.Generator().manual_seed(seed)
    for attention in family.attentions(module):
        if attention.rotatable:
            _turn_scores(attention, generator)
    streams = family.streams(module)
    for stream in streams:
        _turn_stream(stream, generator)
    return streams


def random_rotation(size: int, generator: torch.Generator) -> torch.Tensor:
    """Orthogonal fp64 (size, size), uniform over all of them (Mezzadri, 2007)."""
    drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    rotation: torch.Tensor = q * r.diagonal().sign()
    return rotation


def mean_keeping_rotation(size: int, generator: torch.Generator) -> torch.Tensor:
    """As :func:`random_rotation`, of those that leave (1, …, 1) where it is."""
    # The reflection that takes the first axis to (1, …, 1) / √size, around a rotation of the rest.
    normal = torch.full((size, 1), -(size**-0.5), dtype=torch.float64)
    normal[0] += 1
    reflection = torch.eye(size, dtype=torch.float64)
    if size > 1:
        reflection -= 2 * normal @ normal.T / normal.square().sum()
    inner = torch.eye(size, dtype=torch.float64)
    inner[1:, 1:] = random_rotation(size - 1, generator)
    return reflection @ inner @ reflection


def _turn_stream(stream: Stream, generator: torch.Generator) -> None:
    rotation = mean_keeping_rotation(stream.width, generator)
    for tokens in stream.tokens:
        _assign(tokens, tokens.double() @ rotation.to(tokens.device).T)
    for writer in stream.writers:
        turned = rotation.to(writer.weight.device)
        _assign(writer.weight, torch.einsum("ij,j...->i...", turned, writer.weight.double()))
        if writer.bias is not None:
            _assign(writer.bias, turned @ writer.bias.double())
    for norm, readers in stream.readers:
        beside = torch.eye(len(norm.weight) // stream.width, dtype=torch.float64)
        turned = torch.kron(beside, rotation).to(norm.weight.device)
        for reader in readers:
            weight = reader.weight.double()
            _assign(reader.bias, reader.bias.double() + weight @ norm.bias.double())
            _assign(reader.weight, (weight * norm.weight.double()) @ turned.T)
        norm.weight.fill_(1)
        norm.bias.zero_()


def _turn_scores(attention: ExplicitAttention, generator: torch.Generator) -> None:
    """Queries and keys of a head by the same rotation: their products stay."""
    heads, size = attention.num_heads, attention.head_dim
    for head in range(heads):
        rotation = random_rotation(size, generator).to(attention.qkv.weight.device)
        for first in (head * size, (heads + head) * size):
            for part in (attention.qkv.weight, attention.qkv.bias):
                if part is not None:
                    rows = part[first : first + size]
                    _assign(rows, rotation @ rows.double())


def _assign(parameter: torch.Tensor, value: torch.Tensor) -> None:
    parameter.copy_(value.to(parameter.dtype))

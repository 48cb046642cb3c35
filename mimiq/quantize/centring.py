"""LayerNorm outputs around zero: what they have in common moves into the bias behind them.

The channels of a LayerNorm's output have means that every token shares, and a symmetric grid spends
its integers on them. Taking the mean μ from the LayerNorm's bias and giving W·μ to the bias of each
Linear W that reads it leaves the network as it was (the shift of Wei et al., Outlier Suppression+,
EMNLP 2023, section 4.1).
"""

from __future__ import annotations

import torch

from mimiq.models.family import Stream
from mimiq.quantize.hooks import evenly_spread, watch_inputs

IMAGES = 64  # at most; a mean over all their tokens needs no more


@torch.no_grad()
def centre(
    module: torch.nn.Module, stream: Stream, images: torch.Tensor, batch_size: int = 16
) -> None:
    """Shift in place what the LayerNorms of ``module`` put out; its function does not change.

    Args:
        stream: of ``module``.
        images: (B, C, H, W), normalised.
    """
    read = {str(index): readers[0] for index, (_, readers) in enumerate(stream.readers) if readers}
    means = {
        name: torch.zeros(reader.in_features, device=images.device) for name, reader in read.items()
    }
    chosen = images[evenly_spread(len(images), IMAGES)]

    def see(name: str, x: torch.Tensor) -> None:
        tokens = x.reshape(len(x), -1, x.shape[-1])
        windows = len(x) // len(batch)
        means[name] += tokens.mean(1).sum(0) / (len(chosen) * windows)

    with watch_inputs(read, see):
        for batch in chosen.split(batch_size):
            module(batch)
    for name, mean in means.items():
        norm, readers = stream.readers[int(name)]
        norm.bias.sub_(mean)
        for reader in readers:
            reader.bias.add_(reader.weight @ mean)

"""Position embeddings: the grid their patches lie in, which weights do not say, and another's."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from mimiq.errors import BadInput

Grid = tuple[int, int]

# A learned embedding's vertical neighbours have a cosine of 0.5 to 0.95, and in a grid that is not
# its own of 0.05 to 0.75; an untrained one's are about 0.
LEAST_SIMILARITY = 0.25
_LEAST_MARGIN = 0.25
_LONGEST = 8  # times as wide as high, or the other way round


def grid_of(
    position: torch.Tensor, default: Grid, wanted: Grid | None, patch: Grid, origin: str
) -> Grid:
    """Rows and columns of patches that a position embedding was trained with.

    Args:
        position: (patches, C), without the entries of class and register tokens.
        default: the architecture's own grid.
        wanted: the grid of the size that was asked for, if one was.
        patch: height and width of a patch in pixels.
        origin: the file, for messages.

    Raises:
        BadInput: the patches form no square and no grid that was asked for, or neighbours in the
            embedding say that they lie otherwise.
    """
    count = len(position)
    side = math.isqrt(count)
    assumed = default if default[0] * default[1] == count else (side, side)
    whole = assumed[0] * assumed[1] == count
    scores = likeness(position)
    if wanted is not None and wanted[0] * wanted[1] == count:
        # As many patches in another grid: trained with it, or to be resized to it?
        likely = max(scores, key=lambda grid: scores[grid], default=wanted)
        told = scores.get(likely, 0.0)
        clear = told >= max(LEAST_SIMILARITY, scores.get(wanted, told) + _LEAST_MARGIN)
        if clear:
            return likely
        trained = max((wanted, assumed), key=lambda grid: scores.get(grid, 0.0))
        return trained if whole and scores.get(trained, 0.0) >= LEAST_SIMILARITY else wanted
    ranked = sorted(scores, key=lambda grid: -scores[grid])
    clear = bool(ranked) and scores[ranked[0]] >= LEAST_SIMILARITY
    if not whole and wanted is not None and clear:
        return ranked[0]
    if not whole:
        shown = [_pixels(grid, patch) for grid in ranked[:3]]
        raise BadInput(
            f"{origin} has positions for {count} patches, which form no square.",
            "Say how high and wide its images are in pixels"
            + (f": {' or '.join(f'`image_size={size}`' for size in shown)}." if shown else "."),
        )
    if ranked and scores[ranked[0]] >= scores.get(assumed, 0.0) + _LEAST_MARGIN:
        likely = ranked[0]
        raise BadInput(
            f"{origin} has positions for {count} patches. Their neighbours are most alike in "
            f"{likely[0]} rows of {likely[1]}, and not in {assumed[0]} of {assumed[1]}.",
            f"Say how high and wide its images are: `image_size={_pixels(likely, patch)}`, or "
            f"{_pixels(assumed, patch)}.",
        )
    return assumed


def likeness(position: torch.Tensor) -> dict[Grid, float]:
    """Mean cosine of vertical neighbours by grid, for every grid that so many patches can form.

    Args:
        position: (patches, C).
    """
    count = len(position)
    centred = functional.normalize(position.float() - position.float().mean(dim=0), dim=1)
    grids = [
        (rows, count // rows)
        for rows in range(2, count // 2 + 1)
        if count % rows == 0 and max(rows * rows, count) <= _LONGEST * min(rows * rows, count)
    ]
    return {
        (rows, columns): float((centred[:-columns] * centred[columns:]).sum(dim=1).mean())
        for rows, columns in grids
    }


def _pixels(grid: Grid, patch: Grid) -> str:
    return f"{grid[0] * patch[0]}x{grid[1] * patch[1]}"


def resized(
    position: torch.Tensor, trained: Grid, grid: Grid, prefix: int, *, antialias: bool = True
) -> torch.Tensor:
    """A position embedding for another grid, bicubic, as timm's own loading does it.

    Args:
        position: (1, prefix + patches, C), trained for ``trained``.
        trained, grid: rows and columns of patches, of the result those of ``grid``.
        prefix: entries for class and register tokens, which stay as they are.
        antialias: as timm.

    Raises:
        BadInput: the grid has no patches.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed

    if min(grid) < 1:
        raise BadInput(
            "An image of this size is smaller than a patch.", "Give a larger `image_size`."
        )
    result: torch.Tensor = resample_abs_pos_embed(
        position.float(),
        new_size=list(grid),
        old_size=list(trained),
        num_prefix_tokens=prefix,
        antialias=antialias,
    )
    return result


def resized_biases(table: torch.Tensor, trained: Grid, grid: Grid) -> torch.Tensor:
    """A table of relative position biases for another grid, as transformers' BEiT has it.

    Args:
        table: (distances, heads), those of a class token last.
        trained, grid: rows and columns of patches.
    """
    old, new = ([2 * side - 1 for side in sides] for sides in (trained, grid))
    count = old[0] * old[1]
    # transformers takes rows for columns, and its networks were trained so.
    image = table[:count].T.reshape(1, -1, old[1], old[0]).float()
    resized = functional.interpolate(image, size=new, mode="bilinear")
    return torch.cat([resized.flatten(2)[0].T, table[count:].float()])

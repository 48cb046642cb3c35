"""Options that say which network, and in which precision."""

from __future__ import annotations

import click

from mimiq.cli.choices import (
    CROP_MODES,
    FEATURES,
    INTERPOLATIONS,
    BudgetChoice,
    ModelChoice,
    PrecisionChoice,
)
from mimiq.cli.options.completing import complete_model
from mimiq.cli.options.grouping import group, option
from mimiq.cli.parameters import ARGUMENTS, CHANNELS, PATH, SIZE, Number, Whole

model_options = group(
    "choice",
    ModelChoice,
    click.argument("model", shell_complete=complete_model),
    option(
        "Network",
        "--weights",
        type=PATH,
        help="Checkpoint: safetensors (a file or an index of shards), .pth of tensors, or .npz.",
    ),
    option("Network", "--untrained", is_flag=True, help="Random weights, for latency work only."),
    option(
        "Network",
        "--num-classes",
        type=Whole(1),
        metavar="N",
        help="Follows the checkpoint by default.",
    ),
    option(
        "Network",
        "--image-size",
        type=SIZE,
        metavar="HxW",
        help="224, or 112x448. Follows the checkpoint by default; its position embedding is "
        "resized to another.",
    ),
    option(
        "Network",
        "--model-kwargs",
        type=ARGUMENTS,
        metavar="KEY=VALUE,…",
        help="What a checkpoint cannot say, as timm's constructor takes it: num_heads=12, "
        "global_pool=avg, …",
    ),
    option(
        "Network",
        "--ema/--no-ema",
        "ema",
        default=None,
        help="Of a checkpoint with both: the averaged weights, or the trained ones (default).",
    ),
    option(
        "Network",
        "--features",
        type=click.Choice(FEATURES),
        help="Of a network without a classifier: its pooled embedding (default), or the tokens of "
        "its patches.",
    ),
    option(
        "Network",
        "--crop-pct",
        type=Number(0, 1, min_open=True),
        metavar="SHARE",
        help="Centre crop's share.",
    ),
    option(
        "Network",
        "--crop-mode",
        type=click.Choice(CROP_MODES),
        help="center cuts off what is too long, squash changes the proportions, border fills up.",
    ),
    option(
        "Network",
        "--interpolation",
        type=click.Choice(INTERPOLATIONS),
        help="How images are resized.",
    ),
    option("Network", "--mean", type=CHANNELS, help="Normalisation, e.g. 0.5,0.5,0.5."),
    option("Network", "--std", type=CHANNELS, help="Normalisation, e.g. 0.5,0.5,0.5."),
    option("Network", "--labels", type=PATH, help="Text file with one class name a line."),
)
precision_options = group(
    "precision",
    PrecisionChoice,
    option("Precision", "--int8", is_flag=True, help="INT8 weights and activations (default)."),
    option("Precision", "--int4", is_flag=True, help="INT4 weights, INT8 activations."),
    option("Precision", "--bits", metavar="wXaY", help="Any widths: w4a4, w6a6, w4a16, …"),
    option(
        "Precision",
        "--weight-only",
        is_flag=True,
        help="With --int4: block-wise INT4, float activations.",
    ),
    option(
        "Precision",
        "--block-size",
        type=Whole(1),
        metavar="N",
        help="Inputs that share a scale; by default the largest that fits every Linear.",
    ),
    option(
        "Precision",
        "--uniform",
        is_flag=True,
        help="The classifier at the same bits too, as with the paper's recipe; by default it has "
        "8 at least.",
    ),
)
budget_options = group(
    "budget",
    BudgetChoice,
    option(
        "Precision",
        "--max-drop",
        type=Number(0, 100),
        metavar="POINTS",
        help="Raise the most sensitive layers to 8 bits until at most so many points of top-1 are "
        "lost, as estimated on held-out calibration images; of embeddings, until their mean cosine "
        "is 0.99 for 1, 0.995 for 0.5.",
    ),
    option(
        "Precision",
        "--size-budget",
        metavar="SIZE",
        help="Raise as many as the ONNX file's size allows: 4MB, or 0.6x of full precision.",
    ),
)

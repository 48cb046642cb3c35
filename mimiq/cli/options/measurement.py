"""Options that say what is measured, by what, and which engine is built for it."""

from __future__ import annotations

import click

from mimiq.cli.choices import (
    BACKENDS,
    TARGETS,
    EngineChoice,
    MeasureChoice,
)
from mimiq.cli.options.grouping import group, option
from mimiq.cli.parameters import BATCHES, PATH, Whole

batches_option = option(
    "Measurement",
    "--batches",
    type=BATCHES,
    default="1,8,32",
    show_default=True,
    help="Batch sizes whose latency is measured.",
)
limit_option = option(
    "Measurement",
    "--eval-limit",
    type=Whole(1),
    metavar="N",
    help="Evaluate on so many of them, evenly spread.",
)
measure_options = group(
    "measurement",
    MeasureChoice,
    option(
        "Measurement",
        "--eval",
        "evaluation",
        type=PATH,
        metavar="DIR",
        help="Labelled images: class folders, or images with a val.txt of 'file index' lines; for "
        "a network without a classifier any images.",
    ),
    limit_option,
    batches_option,
    option("Measurement", "--no-bench", is_flag=True, help="Measure no latency."),
)
engine_options = group(
    "engine",
    EngineChoice,
    option(
        "Target",
        "--target",
        type=click.Choice(TARGETS),
        default="auto",
        show_default=True,
        help="Also build a TensorRT-RTX (rtx) or TensorRT (trt) engine; auto: what this host can "
        "build; ort: none.",
    ),
    option(
        "Target", "--allow-fallback", is_flag=True, help="Accept layers that lose low precision."
    ),
    option(
        "Target",
        "--fp8",
        is_flag=True,
        help="An engine in FP8 (E4M3) in the place of INT8, for GPUs from compute capability 8.9; "
        "it runs before others that fit.",
    ),
)
backend_option = option(
    "Measurement",
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="What runs the model; null computes nothing, to see what all the rest costs.",
)

"""Options that say what is calibrated on, and for how long it is tuned."""

from __future__ import annotations

import click

from mimiq.cli.choices import (
    RECIPES,
    ImagesChoice,
    TuningChoice,
)
from mimiq.cli.options.grouping import group, option
from mimiq.cli.parameters import Whole

images_options = group(
    "images",
    ImagesChoice,
    option(
        "Calibration",
        "--recipe",
        type=click.Choice(RECIPES),
        help="How much work: by default tiny for digits, gpu where there is CUDA, else cpu.",
    ),
    option(
        "Calibration",
        "--images",
        type=Whole(2),
        metavar="N",
        help="Calibration images, instead of the recipe's.",
    ),
    option(
        "Calibration",
        "--seed",
        type=Whole(0, 2**32 - 1),
        metavar="N",
        help="Of all draws; 0 where none is given.",
    ),
    option(
        "Calibration",
        "--device",
        default="auto",
        show_default=True,
        metavar="NAME",
        help="auto, cpu, cuda or cuda:N.",
    ),
)
tuning_options = group(
    "tuning",
    TuningChoice,
    option(
        "Calibration",
        "--calibration",
        metavar="SOURCE",
        default="synthetic",
        show_default=True,
        help="synthetic, psaq (a baseline), noise (a control), or a folder of images or of a "
        "calibration set.",
    ),
    option(
        "Calibration",
        "--steps",
        type=Whole(0),
        metavar="N",
        help="Distillation steps; 0 leaves it out, as recipe cpu does below 8 bits.",
    ),
)

"""The command line's options, in groups that several commands share.

A group is a decorator. The command gets its options as one frozen value, so that nothing below the
command line reads flags.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from mimiq.cli.choices import (
    BACKENDS,
    CROP_MODES,
    INTERPOLATIONS,
    RECIPES,
    TARGETS,
    BudgetChoice,
    EngineChoice,
    ImagesChoice,
    MeasureChoice,
    ModelChoice,
    OutChoice,
    PrecisionChoice,
    Say,
    TuningChoice,
)
from mimiq.cli.completing import complete_model
from mimiq.cli.parameters import ARGUMENTS, BATCHES, CHANNELS, PATH, SIZE, Option

Function = TypeVar("Function", bound=Callable[..., Any])


def _group(name: str, choice: type, *options: Any) -> Callable[[Function], Function]:
    """A decorator that adds options and hands their values to the command as one ``choice``."""
    own = [field.name for field in fields(choice)]

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def gathered(**given: Any) -> Any:
            values = {key: given.pop(key) for key in own}
            return function(**given, **{name: choice(**values)})

        decorated: Any = gathered
        for add in reversed(options):
            decorated = add(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def option(section: str, *names: str, **attributes: Any) -> Callable[[Function], Function]:
    """An option that stands under ``section`` in the help."""
    added: Any = click.option(*names, cls=Option, section=section, **attributes)
    return added  # type: ignore[no-any-return]


model_options = _group(
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
        type=click.IntRange(1),
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
        "--crop-pct",
        type=click.FloatRange(0, 1, min_open=True),
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

precision_options = _group(
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
        type=click.IntRange(1),
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

budget_options = _group(
    "budget",
    BudgetChoice,
    option(
        "Precision",
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="Raise the most sensitive layers to 8 bits until at most so many points of top-1 are "
        "lost, as estimated on held-out calibration images.",
    ),
    option(
        "Precision",
        "--size-budget",
        metavar="SIZE",
        help="Raise as many as the ONNX file's size allows: 4MB, or 0.6x of full precision.",
    ),
)

images_options = _group(
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
        type=click.IntRange(2),
        metavar="N",
        help="Calibration images, instead of the recipe's.",
    ),
    option(
        "Calibration",
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
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

tuning_options = _group(
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
        type=click.IntRange(0),
        metavar="N",
        help="Distillation steps; 0 leaves it out, as recipe cpu does below 8 bits.",
    ),
)

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
    type=click.IntRange(1),
    metavar="N",
    help="Evaluate on so many of them, evenly spread.",
)

measure_options = _group(
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

engine_options = _group(
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

cache_option = option(
    "Output",
    "--cache-dir",
    type=PATH,
    help="Where finished stages are kept.  [default: $MIMIQ_CACHE, or the user's cache folder]",
)

dry_run_option = option(
    "Output",
    "--dry-run",
    is_flag=True,
    help="Say what would be done and about how long it takes on this host, and do none of it.",
)


def out_options(default: str) -> Callable[[Function], Function]:
    """Where the result goes; ``default`` is its name where none is given, in this folder."""
    return _group(
        "output",
        OutChoice,
        option(
            "Output",
            "-o",
            "--out",
            type=PATH,
            help=f"Where to write the result.  [default: {default}, in this folder]",
        ),
        option(
            "Output", "--force", is_flag=True, help="Replace an existing result of the same kind."
        ),
    )


say_options = _group(
    "say",
    Say,
    option("Output", "--json", is_flag=True, help="Print the result as JSON on standard output."),
    option("Output", "--quiet", is_flag=True, help="No progress on standard error."),
)

json_option = option(
    "Output", "--json", is_flag=True, help="Print the result as JSON on standard output."
)

backend_option = option(
    "Measurement",
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="What runs the model; null computes nothing, to see what all the rest costs.",
)

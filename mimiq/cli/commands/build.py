"""``build``: a TensorRT engine in a bundle that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mimiq.cli import choices, options
from mimiq.cli.commanding import Command
from mimiq.cli.engines import engine_json, show_engine
from mimiq.cli.output import print_json, working
from mimiq.cli.parameters import NAMES, PATH, PROFILE, Whole
from mimiq.errors import BadInput


@click.command(
    cls=Command,
    short_help="Build a TensorRT engine into a bundle.",
    examples=(
        ("mimiq build deit_t-w8a8.mimiq --target rtx", "an engine, on any host"),
        ("mimiq build deit_t-w8a8.mimiq --target trt", "on the host that will serve it"),
    ),
)
@click.argument("bundle", type=PATH)
@options.engine_options
@options.option(
    "Target",
    "--profile",
    type=PROFILE,
    default="1,8,128",
    show_default=True,
    help="Smallest, typical and largest batch that the engine takes.",
)
@options.option(
    "Target",
    "--compute-capabilities",
    type=NAMES,
    default="",
    help="TensorRT-RTX: GPUs to compile for, e.g. 8.6,8.9; by default 8.0 and all later.",
)
@options.option(
    "Target",
    "--hardware-compatibility",
    type=click.Choice(("none", "ampere-plus", "same-compute-capability")),
    default="none",
    show_default=True,
    help="TensorRT: which other GPUs may run the engine.",
)
@options.option(
    "Target",
    "--workspace-mib",
    type=Whole(1),
    help="Limit of the builder's scratch memory.",
)
@options.option(
    "Target",
    "--timing-cache",
    type=PATH,
    help="TensorRT: file of kernel timings, read and updated.",
)
@options.say_options
def build(
    bundle: Path,
    engine: choices.EngineChoice,
    profile: tuple[int, int, int],
    compute_capabilities: tuple[str, ...],
    hardware_compatibility: Any,
    workspace_mib: int | None,
    timing_cache: Path | None,
    say: choices.Say,
) -> None:
    """Build a TensorRT engine into BUNDLE, and prove its precision layer by layer."""
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.export.tensorrt.build import BuildOptions
    from mimiq.runtime.bundle import Bundle
    from mimiq.stages import engine as add

    if engine.target == choices.GRAPH:
        raise BadInput(
            "ONNX Runtime needs no engine: it opens the bundle as it is.",
            "Choose --target rtx or --target trt.",
        )
    wanted = BuildOptions(
        batches=profile,
        compute_capabilities=compute_capabilities,
        hardware_compatibility=hardware_compatibility,
        workspace_bytes=None if workspace_mib is None else workspace_mib * 2**20,
        timing_cache=timing_cache,
        allow_fallback=engine.allow_fallback,
    )
    with working(), shown_progress(say.quiet).stage("engine") as stage:
        stage.update(text="building and proving")
        built = add.build(Bundle(bundle), engine.target, wanted, fp8=engine.fp8)
    if say.json:
        print_json(engine_json(built))
        return
    show_engine(built)

"""``pack``: a bundle as the next version of a model in a repository for Triton."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from mimiq.cli import choices, options
from mimiq.cli.commanding import Command
from mimiq.cli.output import print_json, show, shown, table, working
from mimiq.cli.parameters import PATH, Whole


@click.command(
    cls=Command,
    short_help="Make a model repository for Triton.",
    examples=(
        ("mimiq pack deit_t-w8a8.mimiq --triton models/", "a model repository"),
        (
            "mimiq pack deit_t-w8a8.mimiq --triton models/ --preprocess --top-k 5",
            "pixels in, labels out",
        ),
    ),
)
@click.argument("bundle", type=PATH)
@options.option(
    "Serving",
    "--triton",
    "repository",
    type=PATH,
    required=True,
    metavar="REPO",
    help="Folder of models, for Triton and for MLServer; made if need be.",
)
@options.option(
    "Serving", "--name", metavar="NAME", help="Of the model; by default the bundle's folder's."
)
@options.option(
    "Serving",
    "--backend",
    type=click.Choice(("onnxruntime", "tensorrt", "openvino")),
    default="onnxruntime",
    show_default=True,
    help="Serve the graph, or with tensorrt an engine that mimiq build --target trt made. "
    "openvino also writes what OpenVINO Model Server reads.",
)
@options.option(
    "Serving",
    "--instances",
    type=Whole(1),
    default=1,
    show_default=True,
    help="Copies of the model on each device.",
)
@options.option(
    "Serving", "--gpu/--cpu", "gpu", default=None, help="Where it runs; by default what is there."
)
@options.option(
    "Serving",
    "--max-batch",
    type=Whole(1),
    metavar="N",
    help="Images a batch at most; by default the engine's largest, or 64.",
)
@options.option(
    "Serving",
    "--preprocess",
    is_flag=True,
    help="Take uint8 (B, H, W, C) pixels of the network's size; the graph normalises them.",
)
@options.option(
    "Serving",
    "--top-k",
    type=Whole(1),
    metavar="K",
    help="Also give the K likeliest classes, their probabilities and labels.",
)
@options.option(
    "Serving",
    "--accelerator",
    type=click.Choice(("auto", "tensorrt", "openvino", "none")),
    default="auto",
    show_default=True,
    help="Inside Triton's onnxruntime backend; auto is tensorrt with --gpu, else none.",
)
@options.say_options
def pack(
    bundle: Path,
    repository: Path,
    name: str | None,
    backend: Any,
    instances: int,
    gpu: bool | None,
    max_batch: int | None,
    preprocess: bool,
    top_k: int | None,
    accelerator: Any,
    say: choices.Say,
) -> None:
    """Add BUNDLE to a model repository, as the next version of a model.

    No version is ever overwritten. Triton and MLServer both serve the repository as it is.
    """
    from mimiq.export.triton import PackOptions
    from mimiq.export.triton import pack as pack_bundle
    from mimiq.runtime.bundle import Bundle

    opened = Bundle(bundle)
    wanted = PackOptions(
        backend=backend,
        instances=instances,
        device="auto" if gpu is None else "gpu" if gpu else "cpu",
        max_batch=max_batch,
        preprocess=preprocess,
        top_k=top_k,
        accelerator=accelerator,
    )
    with working():
        packed = pack_bundle(opened, repository, name or _default_name(bundle), wanted)
    if say.json:
        print_json(packed.to_json())
        return
    record = packed.record
    rows = [
        ("model", f"{packed.folder.name}, version {packed.version}"),
        ("serves", f"{record.file}, {record.precision}, by {record.backend}"),
        *(("takes", tensor.text) for tensor in record.inputs),
        *(("gives", tensor.text) for tensor in record.outputs),
        ("batches", f"up to {record.max_batch} images"),
    ]
    show(table(("", ""), rows, f"{shown(packed.folder)}"), *(f"• {note}" for note in packed.notes))


def _default_name(bundle: Path) -> str:
    stem = bundle.resolve().name.removesuffix(".mimiq")
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip("-.") or "model"

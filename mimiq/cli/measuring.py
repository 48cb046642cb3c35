"""``eval`` and ``bench``: what a bundle's accuracy and latency are on this host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import choices, options, preflight, values
from mimiq.cli.failures import Command
from mimiq.cli.output import print_json, show, table, working
from mimiq.cli.parameters import PATH
from mimiq.errors import BadInput, CheckFailed

if TYPE_CHECKING:
    from mimiq.runtime.accuracy import Accuracy, Comparison
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.datasets import LabelledImages


@click.command("eval", cls=Command, short_help="Accuracy of a bundle on labelled images.")
@click.argument("bundle", type=PATH)
@click.argument("images", type=PATH, required=False)
@options.backend_option
@options.option(
    "Measurement",
    "--against",
    type=click.Choice(choices.BACKENDS[1:]),
    help="Also run this backend on the same images, and compare.",
)
@options.option(
    "Measurement",
    "--min-agreement",
    type=click.FloatRange(0, 100),
    default=99.5,
    show_default=True,
    help="With --against: fail when fewer per cent of the images get the same top-1.",
)
@options.limit_option
@options.option(
    "Measurement",
    "--batch-size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Images a run.",
)
@options.say_options
def evaluate_command(
    bundle: Path,
    images: Path | None,
    backend: str,
    against: str | None,
    min_agreement: float,
    eval_limit: int | None,
    batch_size: int,
    say: choices.Say,
) -> None:
    """Measure BUNDLE's top-1 and top-5 accuracy on the labelled IMAGES.

    IMAGES is a folder of class folders, or one with a val.txt of 'file index' lines. The bundle of
    the embedded model is measured on its own held-out images if none are given.
    """
    from mimiq.progress import Progress
    from mimiq.runtime import open_bundle
    from mimiq.runtime.accuracy import compare, evaluate
    from mimiq.runtime.bundle import Bundle

    opened = Bundle(bundle)
    dataset, name = _dataset(opened, images, eval_limit)
    progress = Progress(say.quiet)
    comparison: Comparison | None = None
    with working(), open_bundle(opened, backend) as session:
        backend_name = session.backend
        with progress.stage("accuracy", len(dataset)) as stage:

            def advance(done: int, _: int) -> None:
                stage.update(done, backend_name)

            pipeline = opened.preprocessing
            if against is None:
                accuracy = evaluate(
                    session, dataset, pipeline, batch_size=batch_size, progress=advance
                )
            else:
                with open_bundle(opened, against) as other:
                    comparison = compare(
                        session, other, dataset, pipeline, batch_size=batch_size, progress=advance
                    )
                accuracy = comparison.accuracy
    result = {
        "bundle": str(bundle),
        "dataset": name,
        "backend": backend_name,
        "accuracy": accuracy.to_json(),
        "against": against,
        "comparison": comparison.to_json() if comparison else None,
    }
    if say.json:
        print_json(result)
    else:
        _show_accuracy(opened, name, backend_name, accuracy, against, comparison)
    if comparison is not None and 100 * comparison.agreement < min_agreement:
        raise CheckFailed(
            f"{backend_name} and {against} agree on {comparison.agreement:.2%} of "
            f"{comparison.count} images; {min_agreement:g} % were asked for.",
            "See where precision was lost with mimiq inspect, or build the engine again.",
        )


def _dataset(bundle: Bundle, folder: Path | None, limit: int | None) -> tuple[LabelledImages, str]:
    if folder is not None:
        preflight.require_folder(folder, "IMAGES", "a folder of labelled images")
        return values.dataset_of(folder, bundle.num_classes, limit), str(folder)
    if bundle.manifest["model"].get("architecture") != values.DIGITS:
        raise BadInput(
            f"No images to evaluate {bundle.path} on.",
            "Give a folder of class folders, or images with a val.txt.",
        )
    from mimiq.models.digits import digits_heldout
    from mimiq.runtime.datasets import InMemoryImages

    pixels, labels = digits_heldout()
    return InMemoryImages(pixels[:limit], labels[:limit], bundle.num_classes), "held-out digits"


def _show_accuracy(
    bundle: Bundle,
    name: str,
    backend: str,
    accuracy: Accuracy,
    against: str | None,
    comparison: Comparison | None,
) -> None:
    low, high = accuracy.top1_interval
    rows: list[tuple[str, ...]] = [
        (
            backend,
            f"{accuracy.top1:.2f} %",
            f"[{low:.1f}, {high:.1f}]",
            f"{accuracy.top5:.2f} %",
            str(accuracy.count),
        )
    ]
    if comparison is not None:
        other = comparison.reference
        low, high = other.top1_interval
        rows.append(
            (
                str(against),
                f"{other.top1:.2f} %",
                f"[{low:.1f}, {high:.1f}]",
                f"{other.top5:.2f} %",
                str(other.count),
            )
        )
    headings = ("backend", "top-1", "95 % interval", "top-5", "images")
    show(table(headings, rows, f"{bundle.model_name} → {bundle.precision_label} on {name}"))
    if bundle.untrained:
        show("UNTRAINED: random weights, so this accuracy means nothing.")
    if comparison is not None:
        show(f"Same top-1 on {comparison.agreement:.2%} of the images.")


@click.command(cls=Command, short_help="Latency and throughput of a bundle.")
@click.argument("bundle", type=PATH)
@options.option(
    "Measurement",
    "--against",
    type=PATH,
    help="A bundle or ONNX file to take turns with: the ratio is formed pair by pair.",
)
@options.batches_option
@options.backend_option
@options.option(
    "Measurement",
    "--threads",
    type=click.IntRange(1),
    help="Of ONNX Runtime on the CPU; by default all that this process may use.",
)
@options.option(
    "Measurement",
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    show_default=True,
    help="To spend on each batch size.",
)
@options.say_options
def bench(
    bundle: Path,
    against: Path | None,
    batches: tuple[int, ...],
    backend: str,
    threads: int | None,
    seconds: float,
    say: choices.Say,
) -> None:
    """Measure BUNDLE's latency and throughput, alone or in turns with another."""
    from mimiq.progress import Progress
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.latency import Engine, measure
    from mimiq.runtime.report import build_report, render

    opened = Bundle(bundle)
    engines = {}
    if against is not None:
        if not against.exists():
            raise BadInput(f"--against {against} does not exist.", "Check the path.")
        engines[_name(against, bundle)] = Engine(against, backend, threads)
    engines[_name(bundle, against)] = Engine(bundle, backend, threads)
    with working(), Progress(say.quiet).stage("latency") as stage:
        rows = measure(engines, batches, budget_s=seconds, progress=stage.status)
    report: dict[str, Any] = build_report(
        model=opened.manifest["model"],
        precision=opened.manifest["precision"],
        latency=rows,
    )
    if say.json:
        print_json({"bundle": str(bundle), "against": str(against) if against else None, **report})
        return
    show(render(report))


def _name(path: Path, other: Path | None) -> str:
    """The path's last part, or the whole of it where the other's is the same."""
    clash = other is not None and other.resolve().name == path.resolve().name
    return str(path) if clash else path.resolve().name

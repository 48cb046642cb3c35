"""``check``: whether a server serves what was compiled, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import choices, options, values
from mimiq.cli.commanding import Command
from mimiq.cli.output import print_json, show, table, working
from mimiq.cli.parameters import BATCHES, PATH, Number, Whole
from mimiq.cli.signals import ending_at_once
from mimiq.errors import BadInput
from mimiq.models.names import EMBEDDED
from mimiq.outputs import require_folder

if TYPE_CHECKING:
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.evaluation.datasets import LabelledImages
    from mimiq.runtime.serving.check import CheckResult

_IDENTITY = {
    "same": "packed from this bundle",
    "different": "packed from ANOTHER bundle",
    "unknown": "the server does not say which bundle it was packed from",
}


@click.command(
    cls=Command,
    short_help="Compare a served model with its bundle.",
    examples=(
        (
            "mimiq check --bundle vit.mimiq --url localhost:8000 --model vit",
            "is it the model that was compiled?",
        ),
        (
            "mimiq check --bundle vit.mimiq --url localhost:8000 --model vit --load 8 --p99-ms 50",
            "and is it fast enough?",
        ),
    ),
)
@options.option(
    "Server", "--url", required=True, metavar="HOST:PORT", help="Of the inference server."
)
@options.option("Server", "--model", required=True, metavar="NAME", help="As the server has it.")
@options.option(
    "Server",
    "--model-version",
    "version",
    default="",
    metavar="N",
    help="By default whichever the server serves.",
)
@options.option(
    "Server",
    "--protocol",
    type=click.Choice(("http", "grpc")),
    default="http",
    show_default=True,
    help="Of the Open Inference Protocol (V2).",
)
@options.option(
    "Server",
    "--timeout",
    "timeout_s",
    type=Number(0, 86_400, min_open=True),
    default=60.0,
    show_default=True,
    help="Of every request, in seconds.",
)
@options.option(
    "Server",
    "--wait",
    "wait_s",
    type=Number(0, 86_400),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="For a server that is only starting, and for its model.",
)
@options.option(
    "Measurement", "--bundle", type=PATH, required=True, help="What should be deployed."
)
@options.option(
    "Measurement",
    "--eval",
    "evaluation",
    type=PATH,
    metavar="DIR",
    help="Images to compare on, labelled but for a network without a classifier; by default "
    "generated ones.",
)
@options.limit_option
@options.option(
    "Measurement",
    "--batch-size",
    type=Whole(1),
    default=8,
    show_default=True,
    help="Images a request when comparing.",
)
@options.option(
    "Measurement",
    "--min-agreement",
    type=Number(0, 1),
    default=0.995,
    show_default=True,
    help="Fail when a smaller share of the images gets the same top-1 as locally.",
)
@options.option(
    "Measurement",
    "--min-cosine",
    type=Number(-1, 1),
    default=0.98,
    show_default=True,
    help="Of embeddings: fail when the 5th percentile of the cosine with the local ones is less.",
)
@options.option(
    "Measurement",
    "--load",
    type=BATCHES,
    default="",
    metavar="N,…",
    help="Measure latency with so many clients at a time, e.g. 1,8,32.",
)
@options.option(
    "Measurement",
    "--seconds",
    type=Number(0, 86_400, min_open=True),
    default=5.0,
    show_default=True,
    help="To spend on each level of --load.",
)
@options.option(
    "Measurement",
    "--p99-ms",
    type=Number(0, min_open=True),
    metavar="X",
    help="Fail when the 99th percentile of the latency exceeds X milliseconds at any level.",
)
@options.backend_option
@options.say_options
def check(
    url: str,
    model: str,
    version: str,
    protocol: Any,
    timeout_s: float,
    wait_s: float,
    bundle: Path,
    evaluation: Path | None,
    eval_limit: int | None,
    batch_size: int,
    min_agreement: float,
    min_cosine: float,
    load: tuple[int, ...],
    seconds: float,
    p99_ms: float | None,
    backend: str,
    say: choices.Say,
) -> None:
    """Check that a server serves the model in a bundle, and how fast.

    Its description is held against the manifest, its answers against those of the bundle on this
    host, in the server's own runtime unless --backend names another. The exit code is 7 when the
    deployed model is not the compiled one, or misses a limit.
    """
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.serving.check import check_server
    from mimiq.runtime.serving.wanted import Wanted

    if p99_ms is not None and not load:
        raise BadInput("--p99-ms needs a load to be measured under.", "Add --load 1,8,32.")
    opened = Bundle(bundle)
    dataset, name = _dataset(opened, evaluation, eval_limit)
    wanted = Wanted(
        url=url,
        model=model,
        version=version,
        protocol=protocol,
        batch_size=batch_size,
        load=load,
        seconds=seconds,
        min_agreement=min_agreement,
        min_cosine=min_cosine,
        p99_ms=p99_ms,
        timeout_s=timeout_s,
        wait_s=wait_s,
    )
    # gevent, which asks over HTTP, would write a traceback of every signal.
    with working(), shown_progress(say.quiet).stage("check") as stage, ending_at_once():
        result = check_server(opened, wanted, dataset, name, backend=backend, stage=stage)
    if say.json:
        print_json({"url": url, "bundle": str(bundle), **result.to_json()})
    else:
        _show(result)
    result.require()


def _dataset(
    bundle: Bundle, folder: Path | None, limit: int | None
) -> tuple[LabelledImages | None, str]:
    if folder is not None:
        require_folder(folder, f"--eval {folder}", "a folder of images")
        return values.images_of(folder, bundle, limit), str(folder)
    if bundle.manifest.architecture != EMBEDDED:
        return None, ""
    from mimiq.models.digits import digits_heldout
    from mimiq.runtime.evaluation.datasets import InMemoryImages

    pixels, labels = digits_heldout()
    return InMemoryImages(pixels[:limit], labels[:limit], bundle.num_classes), "held-out digits"


def _show(result: CheckResult) -> None:
    from mimiq.runtime.evaluation.binary import words
    from mimiq.runtime.report.terminal import nearness_rows

    served = result.served
    rows: list[tuple[str, str]] = [
        ("version", result.version or ", ".join(served.versions) or "–"),
        ("platform", served.platform),
        *(("takes", tensor.text) for tensor in served.inputs),
        *(("gives", tensor.text) for tensor in served.outputs),
        ("bundle", _IDENTITY[result.identity]),
        ("runs the bundle here", result.compared_with or "–"),
    ]
    if result.comparison is not None:
        comparison = result.comparison
        called = words(comparison.probability_difference is not None)
        rows.append(
            (called.same, f"{comparison.agreement:.2%} of {comparison.count}, {result.dataset}")
        )
        if result.dataset != "generated images":
            ours, theirs = comparison.accuracy.top1, comparison.reference.top1
            rows.append((called.right, f"{ours:.2f} %; the bundle on this host: {theirs:.2f} %"))
        rows.append(("largest |Δ logit|", f"{comparison.max_logit_difference:.3g}"))
    if result.similarity is not None:
        rows.append(("compared on", result.dataset))
        rows += [
            (name, f"{value}  {more}") for name, value, more in nearness_rows(result.similarity)
        ]
    show(table(("", ""), rows, served.name))
    if result.load:
        headings = ("clients", "p50 ms", "p90 ms", "p99 ms", "images/s", "requests")
        figures = [
            (
                row.clients,
                *(f"{ms:.2f}" for ms in (row.p50_ms, row.p90_ms, row.p99_ms)),
                f"{row.throughput:.1f}",
                row.requests,
            )
            for row in result.load
        ]
        show("", table(headings, figures))
    show("FAILED" if result.failures else "The deployed model is the compiled one.")

"""``eval``: what a bundle's accuracy is on this host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimiq.cli import choices, options, values
from mimiq.cli.commanding import Command
from mimiq.cli.output import print_json, show, table, working
from mimiq.cli.parameters import PATH, Number, Whole
from mimiq.errors import BadInput, CheckFailed, MimiqError
from mimiq.models.names import EMBEDDED
from mimiq.outputs import require_folder

if TYPE_CHECKING:
    from mimiq.export.divergence import Divergence
    from mimiq.progress import Progress, Stage
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.evaluation.comparison import Accuracy, Comparison
    from mimiq.runtime.evaluation.datasets import LabelledImages
    from mimiq.runtime.session import Session


@click.command(
    "eval",
    cls=Command,
    short_help="Accuracy of a bundle on labelled images.",
    examples=(
        ("mimiq eval deit_t-w8a8.mimiq imagenet/val", "top-1 and top-5"),
        (
            "mimiq eval deit_t-w8a8.mimiq imagenet/val --backend rtx --against ort",
            "two backends on the same images",
        ),
    ),
)
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
    type=Number(0, 1),
    default=0.995,
    show_default=True,
    help="With --against: fail when a smaller share of the images gets the same top-1, and say "
    "at which layer the backends part.",
)
@options.limit_option
@options.option(
    "Measurement",
    "--batch-size",
    type=Whole(1),
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
    the embedded model is measured on its own held-out images if none are given. Of a network
    without a classifier, --against compares the embeddings of two backends on any images.
    """
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.evaluation.accuracy import evaluate

    opened = Bundle(bundle)
    dataset, name = _dataset(opened, images, eval_limit)
    progress = shown_progress(say.quiet)
    if opened.output == "embedding":
        _compare_embeddings(opened, dataset, name, backend, against, batch_size, say)
        return
    comparison: Comparison | None = None
    parting: Parting | None = None
    with working(), _opened(opened, backend) as session:
        backend_name = session.backend
        with progress.stage("accuracy", len(dataset)) as stage:
            stage.update(text=backend_name)
            pipeline = opened.preprocessing
            if against is None:
                accuracy = evaluate(session, dataset, pipeline, batch_size=batch_size, stage=stage)
            else:
                with _opened(opened, against) as other:
                    pair = _Pair(opened, session, other, progress)
                    comparison = pair.compared(dataset, batch_size, stage)
                accuracy = comparison.accuracy
                if comparison.agreement < min_agreement:
                    parting = pair.parting()
    result = {
        "bundle": str(bundle),
        "dataset": name,
        "backend": backend_name,
        "accuracy": accuracy.to_json(),
        "against": against,
        "comparison": comparison.to_json() if comparison else None,
        "parting": parting.found.to_json() if parting and parting.found else None,
    }
    if say.json:
        print_json(result)
    else:
        _show_accuracy(opened, name, backend_name, accuracy, against, comparison)
    if comparison is not None and parting is not None:
        raise CheckFailed(
            f"{backend_name} and {against} agree on {comparison.agreement:.2%} of "
            f"{comparison.count} images; {min_agreement:.2%} were asked for. {parting.words}",
            "See what is computed in which precision with mimiq inspect, build the engine again, "
            "or accept less with --min-agreement.",
        )


def _compare_embeddings(
    bundle: Bundle,
    dataset: LabelledImages,
    name: str,
    backend: str,
    against: str | None,
    batch_size: int,
    say: choices.Say,
) -> None:
    """Two backends of a bundle without a classifier, which has no accuracy of its own."""
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.runtime.evaluation.similarity import MIN_COSINE, compare_embeddings
    from mimiq.runtime.report.terminal import nearness_rows

    if against is None:
        raise BadInput(
            f"{bundle.path} answers with an embedding, which has no accuracy of its own.",
            "Compare two backends with --against; what quantisation costs is measured where the "
            "original is at hand: mimiq-compile … --eval DIR.",
        )
    progress = shown_progress(say.quiet)
    with working(), _opened(bundle, backend) as session, _opened(bundle, against) as other:
        ours, theirs = session.backend, other.backend
        with progress.stage("similarity", len(dataset)) as stage:
            found = compare_embeddings(
                session,
                other,
                dataset,
                bundle.preprocessing,
                batch_size=batch_size,
                tokens=bundle.tokens,
                stage=stage,
            )
    if say.json:
        shown = {"bundle": str(bundle.path), "dataset": name, "backend": ours, "against": theirs}
        print_json({**shown, "similarity": found.to_json()})
    else:
        title = f"{bundle.model_name} → {bundle.precision_label} on {name}: {ours} and {theirs}"
        show(table(("", "", ""), nearness_rows(found), title))
    if found.percentile_5 < MIN_COSINE:
        raise CheckFailed(
            f"The embeddings of {ours} and {theirs} have a cosine of {found.percentile_5:.4f} at "
            f"the 5th percentile; rounding leaves {MIN_COSINE} or more.",
            "See what is computed in which precision with mimiq inspect; build the engine again.",
        )


@dataclass(frozen=True)
class Parting:
    """Where two backends part, in words; ``found`` is None where it could not be looked for."""

    words: str
    found: Divergence | None


class _Pair:
    """Two backends of one bundle on the same images, and where they part."""

    def __init__(self, bundle: Bundle, ours: Session, theirs: Session, progress: Progress) -> None:
        from mimiq.export.divergence import Disagreements

        self._bundle, self._progress = bundle, progress
        self._labels = ours.backend, theirs.backend
        self._seen = Disagreements(ours, theirs)

    def compared(self, dataset: LabelledImages, batch_size: int, stage: Stage) -> Comparison:
        """Both on every image.

        Raises:
            CheckFailed: a logit is not finite; it says at which tensor that begins.
        """
        from mimiq.runtime.evaluation.accuracy import compare

        seen, pipeline = self._seen, self._bundle.preprocessing
        try:
            return compare(
                seen.ours, seen.theirs, dataset, pipeline, batch_size=batch_size, stage=stage
            )
        except CheckFailed as error:
            raise CheckFailed(f"{error.problem} {self.parting().words}", error.next_step) from error

    def parting(self) -> Parting:
        """The first tensor at which they differ by more than rounding explains."""
        from mimiq.export.divergence import diverge
        from mimiq.runtime.backends import backend_of

        try:
            with self._progress.stage("parting") as stage:
                stage.update(text="tensor by tensor")
                ours, theirs = (backend_of(label) for label in self._labels)
                found = diverge(self._bundle, ours, theirs, self._seen.images)
        except MimiqError as error:
            words = f"Where they part was not found: {error.problem} {error.next_step}"
            return Parting(words, None)
        return Parting(str(found), found)


def _opened(bundle: Bundle, backend: str) -> Session:
    from mimiq.runtime.opening import chosen, open_bundle

    # Beside decoders and perhaps another session: idle threads must not keep the cores busy.
    options = {"spinning": False} if "spinning" in chosen(bundle, backend).options else {}
    return open_bundle(bundle, backend, **options)


def _dataset(bundle: Bundle, folder: Path | None, limit: int | None) -> tuple[LabelledImages, str]:
    if folder is not None:
        require_folder(folder, f"IMAGES {folder}", "a folder of labelled images")
        return values.images_of(folder, bundle, limit), str(folder)
    if bundle.manifest.architecture != EMBEDDED:
        raise BadInput(
            f"No images to evaluate {bundle.path} on.",
            "Give a folder of class folders, or images with a val.txt.",
        )
    from mimiq.models.digits import digits_heldout
    from mimiq.runtime.evaluation.datasets import InMemoryImages

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
    from mimiq.runtime.evaluation.binary import words

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
    called = words(bundle.width == 1)
    headings = ("backend", called.right, "95 % interval", "top-5", "images")
    show(table(headings, rows, f"{bundle.model_name} → {bundle.precision_label} on {name}"))
    if bundle.untrained:
        show("UNTRAINED: random weights, so this accuracy means nothing.")
    if comparison is not None:
        show(f"{called.same.capitalize()} on {comparison.agreement:.2%} of the images.")

"""``report``: what is known of a bundle, as a page to look at and to hand on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import choices, options
from mimiq.cli.commanding import Command
from mimiq.cli.output import print_json, show, shown, working
from mimiq.cli.parameters import PATH
from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.files import write_whole
from mimiq.outputs import require_new

if TYPE_CHECKING:
    from mimiq.calibrate import CalibrationSet
    from mimiq.runtime.bundle import Bundle

_SHOWN = 32  # images at most


@click.command(
    "report",
    cls=Command,
    short_help="A bundle's report as an HTML page.",
    examples=(
        ("mimiq report deit_t-w8a8.mimiq", "deit_t-w8a8.html"),
        ("mimiq report deit_t-w8a8.mimiq -o page.html --force", "another name, replaced if there"),
    ),
)
@click.argument("bundle", type=PATH)
@options.option(
    "Calibration",
    "--calibration",
    type=PATH,
    help="The set that BUNDLE was calibrated on, to show more of its images.  [default: the few "
    "that BUNDLE keeps]",
)
@options.out_options("BUNDLE.html")
@options.cache_option
@options.json_option
def report(
    bundle: Path,
    calibration: Path | None,
    output: choices.OutChoice,
    cache_dir: Path | None,
    json: bool,
) -> None:
    """Write one HTML page of all that is known of BUNDLE: no scripts, no other files.

    Accuracy with its interval, latency, precision as built, synthetic calibration images, and how
    it was made. Real calibration images are never shown.
    """
    from mimiq.cache import default_cache_dir
    from mimiq.export.tensorrt.engines import recorded_proofs
    from mimiq.export.tensorrt.proof import proof_rows
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.report.page import page

    with working():
        opened = Bundle(bundle)
        out = output.out or Path(f"{bundle.resolve().name.removesuffix('.mimiq')}.html")
        require_new(out, output.force, ".html")
        engines = {name: list(proof_rows(proof)) for name, proof in recorded_proofs(opened).items()}
        sheet = opened.sheet
        if calibration is not None:
            sheet = _pictures(_named(opened, calibration))
        elif sheet is None:  # written before bundles kept some
            with contextlib.suppress(EnvironmentLacks):  # no home, no finished stages
                sheet = _cached(opened, cache_dir or default_cache_dir())
        write_whole(out, page(opened, engines, sheet))
    if json:
        print_json({"path": str(out), "images_shown": sheet is not None})
        return
    show(f"Report: {shown(out)}")


def _named(bundle: Bundle, path: Path) -> CalibrationSet:
    from mimiq.calibrate import CalibrationSet

    if _is_real(bundle):
        raise BadInput(
            f"{bundle.path} was calibrated on real images, which are never shown.",
            "Leave out --calibration.",
        )
    found = CalibrationSet.open(path)
    found.verify()  # its hash is to be that of what is shown
    if found.content_hash != _calibration(bundle).get("content_sha256"):
        raise BadInput(
            f"{bundle.path} was not calibrated on {path}: the images differ.",
            "Give the set that it was calibrated on, or leave out --calibration.",
        )
    return found


def _cached(bundle: Bundle, cache: Path) -> bytes | None:
    """Images of the bundle's calibration set, if it is still whole among the finished stages."""
    from mimiq.calibrate import CalibrationSet
    from mimiq.calibrate.manifest import read_manifest

    wanted = _calibration(bundle).get("content_sha256")
    if wanted is None or _is_real(bundle):
        return None
    for folder in sorted(cache.glob("calibration-*/set")):
        try:
            if (read_manifest(folder) or {}).get("content_sha256") == wanted:
                found = CalibrationSet.open(folder)
                found.verify()
                return _pictures(found)
        except BadInput:
            continue  # damaged: another stage's, or no loss but the pictures
    return None


def _pictures(images: CalibrationSet) -> bytes:
    """Some of the images, as one JPEG."""
    from mimiq.calibrate.contact_sheet import jpeg

    return jpeg(images.contact_sheet(limit=_SHOWN))


def _calibration(bundle: Bundle) -> Mapping[str, Any]:
    """The manifest of the set that the bundle was calibrated on, as the bundle has it."""
    return bundle.manifest.calibration


def _is_real(bundle: Bundle) -> bool:
    return bundle.manifest.calibration_kind == "folder"

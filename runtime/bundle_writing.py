"""Bundles on the way to disk: written whole, and added to in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq.durable import beside, remove_leftovers, sync, sync_tree
from mimiq.errors import BadInput
from mimiq.files import make_folder_whole, writing
from mimiq.outputs import require_replaceable
from mimiq.runtime.bundle import LABELS, REPORT, Bundle
from mimiq.runtime.files.additions import READY, move_in
from mimiq.runtime.files.json_objects import pretty_json
from mimiq.runtime.manifest import (
    MANIFEST,
    check_name,
    complete_manifest,
    file_entry,
    signed_manifest,
)

if TYPE_CHECKING:
    from mimiq.runtime.report.report import Report


def write_bundle(
    out: str | Path,
    files: Mapping[str, Path],
    manifest: Mapping[str, Any],
    labels: Sequence[str] | None = None,
    report: Report | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle as one folder, complete or not at all.

    Args:
        out: the folder to make.
        files: name in the bundle (``model.onnx``, ``engines/…``) to the file to copy.
        manifest: what is known of the model: at least ``model``, ``precision``,
            ``preprocessing``, ``inputs`` and ``outputs``. Format, version, time, file hashes and
            the manifest's own digest are filled in; software and hardware where absent.
        labels: class names in order.
        report: what was measured.
        overwrite: replace an existing bundle (never any other folder).

    Returns:
        The bundle, read back.

    Raises:
        BadInput: ``out`` exists, cannot be written, or the content contradicts itself.
        EnvironmentLacks: the disk is full.
    """
    out = Path(os.path.abspath(out))
    _check_target(out, overwrite)

    def fill(folder: Path) -> None:
        for name, source in files.items():
            target = folder / check_name(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if labels is not None:
            (folder / LABELS).write_text(_lines(labels), encoding="utf-8", newline="\n")
        if report is not None:
            (folder / REPORT).write_text(pretty_json(report.to_json()), encoding="utf-8")
        entries = {
            path.relative_to(folder).as_posix(): file_entry(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        full = complete_manifest(manifest) | {"files": entries}
        (folder / MANIFEST).write_text(signed_manifest(full), encoding="utf-8")
        # Read as a user would, while a mistake still leaves nothing behind.
        Bundle(folder, verify=False)

    make_folder_whole(out, fill)
    return Bundle(out, verify=False)


def add_files(
    bundle: Bundle,
    files: Mapping[str, Path] | None = None,
    *,
    report: Report | None = None,
    updates: Mapping[str, Any] | None = None,
) -> Bundle:
    """Add files to a bundle, or replace them: a new folder takes the place of the old in one step.

    Files that stay are the same files under a second name, so that this costs no space. Where the
    folder must stay (a mount point), the files are moved into it, the manifest last.

    Args:
        bundle: where to add.
        files: name in the bundle to the file to copy.
        report: takes the place of the one before.
        updates: manifest entries to add or replace.

    Returns:
        The bundle as it now is.

    Raises:
        BadInput: the bundle cannot be written.
        EnvironmentLacks: the disk is full; the bundle is as it was.
    """
    folder = bundle.path
    entries = {name: asdict(entry) for name, entry in bundle.manifest.files.items()}
    manifest = {**bundle.manifest, **(updates or {}), "files": entries}
    added = {check_name(name): source for name, source in (files or {}).items()}

    def put(place: Path) -> None:
        for name, source in added.items():
            _renew(place / name)
            shutil.copyfile(source, place / name)
            entries[name] = file_entry(place / name)
        if report is not None:
            _renew(place / REPORT)
            (place / REPORT).write_text(pretty_json(report.to_json()), encoding="utf-8")
            entries[REPORT] = file_entry(place / REPORT)
        _renew(place / MANIFEST)
        (place / MANIFEST).write_text(signed_manifest(manifest), encoding="utf-8")

    def fill(place: Path) -> None:
        shutil.copytree(folder, place, copy_function=_link, dirs_exist_ok=True)
        put(place)

    if _is_fixed(folder):
        _put_inside(folder, put)
    else:
        make_folder_whole(folder, fill)
    return Bundle(folder, verify=False)


def _put_inside(folder: Path, put: Callable[[Path], None]) -> None:
    """Have files written aside within a folder, and moved to their names when all are there."""
    aside, ready = beside(folder / "added"), beside(folder / READY)
    with writing(folder):
        remove_leftovers(folder / "added")
        try:
            aside.mkdir()
            put(aside)
            sync_tree(aside)
            os.rename(aside, ready)  # from here on the bundle's readers finish it
            sync(folder)
            move_in(ready, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _is_fixed(folder: Path) -> bool:
    """Whether no other folder can take its place: a mount point, or in a folder of others."""
    real = Path(os.path.realpath(folder))
    return os.path.ismount(real) or not os.access(real.parent, os.W_OK | os.X_OK)


def _link(source: str, target: str) -> None:
    """The same file under a second name, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _renew(path: Path) -> None:
    """Have no file at ``path``: writing to a second name would change the first's content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)


def _check_target(out: Path, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise BadInput(
            f"{out} exists already.", "Choose another folder, or replace it with `overwrite=True`."
        )
    require_replaceable(out)


def _lines(labels: Sequence[str]) -> str:
    for label in labels:
        if "\n" in label or "\r" in label:
            raise BadInput(f"The label {label!r} spans lines.", "Give one line a label.")
    return "".join(f"{label}\n" for label in labels)

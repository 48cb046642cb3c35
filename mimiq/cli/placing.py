"""Results put in place: written aside under another name, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from mimiq import disk
from mimiq.errors import BadInput


def place_folder(out: Path, fill: Callable[[Path], object]) -> None:
    """Make the folder ``out``, complete or not at all; one that is there is replaced.

    Args:
        out: checked by :func:`mimiq.cli.preflight.require_new`.
        fill: writes the content into the folder it is given.

    Raises:
        EnvironmentLacks: when the disk is full.
        BadInput: when ``out`` cannot be written for another reason.
    """
    out = out.absolute()
    aside, old = _beside(out, "tmp"), _beside(out, "old")
    try:
        with _writing(out):
            aside.mkdir(parents=True)
            fill(aside)
            if out.exists():
                os.rename(out, old)
            os.rename(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists() and not out.exists():
            os.rename(old, out)
        shutil.rmtree(old, ignore_errors=True)


def place_file(source: Path, out: Path) -> None:
    """Copy a file to ``out``, complete or not at all.

    Raises:
        EnvironmentLacks: when the disk is full.
        BadInput: when ``out`` cannot be written for another reason.
    """
    with _aside(out) as aside:
        shutil.copyfile(source, aside)


def place_text(text: str, out: Path) -> None:
    """Write a text file in UTF-8, complete or not at all.

    Raises:
        EnvironmentLacks: when the disk is full.
        BadInput: when ``out`` cannot be written for another reason.
    """
    with _aside(out) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A name to write to; what is there at the end becomes ``out``."""
    out = out.absolute()
    aside = _beside(out, "tmp")
    try:
        with _writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            os.replace(aside, out)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Errors that name ``out``, and not the name aside."""
    try:
        with disk.writing(out):
            yield
    except OSError as error:
        raise BadInput(
            f"{out} cannot be written: {error.strerror or error}.", "Choose another place with -o."
        ) from error


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(f".{out.name}.{uuid4().hex[:8]}.{suffix}")

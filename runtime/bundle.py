"""The bundle: one folder that holds a compiled model and says how it was made."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from mimiq.errors import BadInput
from mimiq.files import FileEntry, exhausted, writing
from mimiq.runtime.files.additions import finish_moves
from mimiq.runtime.files.external_data import external_files
from mimiq.runtime.files.json_objects import COMPILE_AGAIN
from mimiq.runtime.manifest import MANIFEST, Manifest, check_name, read_manifest
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.session import Output

if TYPE_CHECKING:
    from mimiq.runtime.report.report import Report

MODEL = "model.onnx"
CPU_MODEL = "model.cpu.onnx"  # in the form that ONNX Runtime's CPU runs fastest
OPENVINO_MODEL = "model.openvino.onnx"  # the same in the form OpenVINO runs fastest
LABELS = "labels.txt"
REPORT = "report.json"
IMAGES = "images.jpg"  # some of the synthetic images that it was calibrated on


class Bundle:
    """A bundle on disk, read and checked.

    Attributes:
        path: the folder.
        manifest: what ``manifest.json`` says.
        preprocessing: from image file to network input.
        output: whether the network answers with ``logits`` or with an ``embedding``.
        num_classes: width of the logits; 0 for an embedding.
        tokens: patch tokens in an embedding, of width / tokens numbers each; 1 where it is pooled.
        width: of the output.
        precision: what was asked for.
        labels: class names in order, or None.

    Args:
        path: the folder.
        verify: compare every file's size and SHA-256 with the manifest (about 1 GB/s).

    Raises:
        BadInput: the folder, the manifest or a listed file is missing, broken, or not what the
            manifest says; the message names the file.
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        self.path = Path(path)
        finish_moves(self.path)
        self.manifest: Manifest = read_manifest(self.path)
        try:
            self.preprocessing = self._read_preprocessing()
            self.output: Output = self.manifest.output
            self.num_classes = self.manifest.num_classes
            self.width = self.manifest.width
            self.tokens = self.manifest.tokens
            self.precision = self.manifest.precision
            files = self.manifest.files
            self._require_one_shape()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise BadInput(
                f"{self.path / MANIFEST} is incomplete: {type(error).__name__} {error}.",
                COMPILE_AGAIN,
            ) from error
        if not self.has(MODEL):
            raise BadInput(f"{self.path / MANIFEST} lists no {MODEL}.", COMPILE_AGAIN)
        for name, entry in files.items():
            _check_file(self.path / check_name(name), entry, verify)
        if verify:
            self._require_own_weights()
        self.labels = self._read_labels()

    def __repr__(self) -> str:
        size = self.model_path.stat().st_size / 1e6
        return f"<Bundle {self.path}: {self.model_name} at {self.precision_label}, {size:.1f} MB>"

    def _repr_html_(self) -> str:
        """The page of ``mimiq report`` as a notebook shows it, in a frame of its own."""
        from html import escape

        from mimiq.runtime.report.page import page

        return (
            f'<iframe srcdoc="{escape(page(self), quote=True)}" sandbox '
            'style="width: 100%; height: 40em; border: 0"></iframe>'
        )

    @property
    def model_path(self) -> Path:
        """The Q/DQ graph, ``model.onnx``."""
        return self.path / MODEL

    @property
    def model_name(self) -> str:
        """The model as the user wrote it when compiling."""
        return self.manifest.model_name

    @property
    def precision_label(self) -> str:
        """For example ``w4a8``."""
        return self.precision.label

    @property
    def answer(self) -> str:
        """What the network answers with, in words: ``1000 classes``."""
        if self.tokens > 1:
            return f"{self.tokens} patch tokens of {self.width // self.tokens} numbers"
        if self.output == "embedding":
            return f"an embedding of {self.width} numbers"
        return "one output, a probability" if self.width == 1 else f"{self.width} classes"

    @property
    def untrained(self) -> bool:
        """Random weights: good for latency alone."""
        return self.manifest.untrained

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, and through it of every file: the bundle's identity."""
        return self.manifest.digest

    @property
    def report(self) -> Report | None:
        """What was measured, or None where nothing was.

        Raises:
            BadInput: ``report.json`` is broken.
        """
        from mimiq.runtime.report.report import read_report

        return read_report(self.path / REPORT) if self.has(REPORT) else None

    @property
    def sheet(self) -> bytes | None:
        """Some of the synthetic images that it was calibrated on, as one JPEG, or None."""
        return (self.path / IMAGES).read_bytes() if self.has(IMAGES) else None

    def has(self, name: str) -> bool:
        """Whether the manifest lists a file of this name."""
        return name in self.manifest.files

    def file(self, name: str) -> Path:
        """Where a listed file is.

        Raises:
            BadInput: the manifest does not list it.
        """
        if not self.has(name):
            raise BadInput(
                f"The bundle {self.path} has no {name}.",
                f"It has {', '.join(sorted(self.manifest.files))}.",
            )
        return self.path / name

    def _require_own_weights(self) -> None:
        """
        Raises:
            BadInput: a graph takes weights from a file that no hash covers.
        """
        for name in self.manifest.files:
            if not name.endswith(".onnx"):
                continue
            for other in external_files(self.path / name):
                if not self.has((PurePosixPath(name).parent / other).as_posix()):
                    raise BadInput(
                        f"{self.path / name} keeps weights in {other!r}, which the manifest does "
                        "not list.",
                        COMPILE_AGAIN,
                    )

    def _read_preprocessing(self) -> Preprocessing:
        try:
            return self.manifest.preprocessing
        except BadInput as error:
            raise BadInput(f"{self.path / MANIFEST}: {error.problem}", error.next_step) from error

    def _require_one_shape(self) -> None:
        """
        Raises:
            BadInput: what the graph takes or gives is not what the images and classes have.
        """
        wanted_of: dict[Literal["inputs", "outputs"], tuple[int, ...]] = {
            "inputs": self.preprocessing.input_shape,
            "outputs": (self.width,),
        }
        for side, wanted in wanted_of.items():
            found = tuple(self.manifest.tensors(side)[0]["shape"][1:])
            if found != wanted:
                raise BadInput(
                    f"{self.path / MANIFEST} contradicts itself: the graph's {side} are "
                    f"{list(found)}, and preprocessing and classes make them {list(wanted)}.",
                    COMPILE_AGAIN,
                )

    def _read_labels(self) -> tuple[str, ...] | None:
        if not self.has(LABELS):
            return None
        path = self.path / LABELS
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise exhausted(error, f"{path} cannot be read") or BadInput(
                f"{path} cannot be read: {error}.", COMPILE_AGAIN
            ) from error
        labels = tuple(text.removesuffix("\n").split("\n"))
        if len(labels) != self.num_classes:
            raise BadInput(
                f"{path} has {len(labels)} labels, but the model has {self.num_classes} classes.",
                COMPILE_AGAIN,
            )
        return labels


def _check_file(path: Path, entry: FileEntry, verify: bool) -> None:
    if not path.is_file():
        raise BadInput(f"{path} is missing: the manifest lists it.", "Copy the whole bundle again.")
    if verify:
        with writing(path):
            whole = entry.describes(path)
        if not whole:
            raise BadInput(
                f"{path} is not the file that the manifest describes: size or hash differ.",
                "It was changed or damaged; copy the whole bundle again.",
            )

"""A packed model on disk: what stands beside each version, and the running of it without Triton.

``mimiq pack`` writes a folder a model::

    REPO/NAME/config.pbtxt          for Triton
    REPO/NAME/model-settings.json   for MLServer
    REPO/NAME/labels.txt
    REPO/NAME.ovms.json             for OpenVINO Model Server, where OpenVINO is asked for
    REPO/NAME/1/model.onnx          or model.plan
    REPO/NAME/1/model.cpu.onnx      the form for a CPU, where Triton may also choose a GPU
    REPO/NAME/1/mimiq.json          which bundle this is: a :class:`PackedRecord`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mimiq.errors import BadInput, UnsupportedTarget
from mimiq.files import writing
from mimiq.runtime.files.json_objects import read_json
from mimiq.runtime.forking import Forkable
from mimiq.runtime.manifest import check_name, file_entry
from mimiq.runtime.onnxruntime.graph import failed, open_graph, runs_on_cpu
from mimiq.runtime.session import check_finite

RECORD = "mimiq.json"
FORMAT = "mimiq-packed/1"
ONNX_FILE, CPU_FILE, PLAN_FILE = "model.onnx", "model.cpu.onnx", "model.plan"
PIXELS, TOP_PROBABILITIES, TOP_CLASSES, TOP_LABELS = (
    "pixels",
    "top_probabilities",
    "top_classes",
    "top_labels",
)
PACK_AGAIN = "Pack the bundle again: that adds a new version."

_DTYPES = {"FP32": np.float32, "UINT8": np.uint8, "INT64": np.int64, "BYTES": np.object_}


@dataclass(frozen=True)
class Tensor:
    """An input or output as the V2 protocol names it.

    Attributes:
        name: of the tensor.
        datatype: ``FP32``, ``UINT8``, ``INT64`` or ``BYTES``.
        shape: without the batch, which comes first.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> npt.DTypeLike:
        return _DTYPES[self.datatype]

    @property
    def text(self) -> str:
        return f"{self.name} {self.datatype} ({', '.join(str(n) for n in ('B', *self.shape))})"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Tensor:
        return Tensor(data["name"], data["datatype"], tuple(int(n) for n in data["shape"]))


@dataclass(frozen=True)
class PackedRecord:
    """The content of ``mimiq.json`` beside a packed model.

    Attributes:
        backend: ``onnxruntime``, ``tensorrt`` or ``openvino``.
        model, precision, mimiq: the model's name, its precision's label, the version of mimiq.
        manifest_sha256: identity of the bundle that was packed.
        file, sha256, bytes: the model file's name, SHA-256 and size.
        inputs, outputs: as served.
        labels_sha256: of the class names, or None.
        config_sha256: of the ``config.pbtxt`` written with this version.
        max_batch: images a batch at most.
        cpu_form: ``{"file", "sha256", "bytes"}`` of the form for a CPU beside ``file``, or None.
            Triton serves ``file`` alone; this runtime takes the other one on a CPU.
    """

    backend: str
    model: str
    precision: str
    mimiq: str
    manifest_sha256: str
    file: str
    sha256: str
    bytes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels_sha256: str | None
    config_sha256: str
    max_batch: int
    cpu_form: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        tensors = {
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
        }
        return {"format": FORMAT, **asdict(self), **tensors}

    @staticmethod
    def read(path: Path) -> PackedRecord:
        """Read one from its file.

        Raises:
            BadInput: it is absent, no JSON, or lacks a field.
        """
        data = read_json(path)
        try:
            tensors: dict[str, Any] = {
                side: tuple(Tensor.from_json(entry) for entry in data[side])
                for side in ("inputs", "outputs")
            }
            optional: dict[str, Any] = {"cpu_form": data.get("cpu_form")}
            known = {*tensors, *optional}
            names = [name for name in PackedRecord.__dataclass_fields__ if name not in known]
            return PackedRecord(**{name: data[name] for name in names}, **tensors, **optional)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{path} does not describe a packed model: {type(error).__name__} {error}.",
                PACK_AGAIN,
            ) from error


def versions_of(folder: Path) -> list[int]:
    """The version folders of a packed model, in ascending order."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and int(name))


class PackedModel(Forkable):
    """One version of a packed model, opened by ONNX Runtime and run by tensor names.

    Args:
        folder: ``REPO/NAME``.
        version: which; None for the newest.
        device: ``cpu``, ``cuda`` or ``auto``; see
            :class:`~mimiq.runtime.onnxruntime.session.OnnxRuntimeSession`.
        threads: of ONNX Runtime on the CPU, or None for all that this process may use.

    Raises:
        BadInput: there is no such version, or a file is missing or damaged.
        UnsupportedTarget: it is a TensorRT plan, which only Triton serves.
    """

    _opened_by = "PackedModel(folder)"

    def __init__(
        self,
        folder: str | Path,
        version: int | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        folder = Path(folder)
        present = versions_of(folder)
        if not present or (version is not None and version not in present):
            which = "no version" if version is None else f"no version {version}"
            raise BadInput(
                f"{folder} holds {which} of a packed model.",
                "Give the folder REPO/NAME that mimiq pack wrote.",
            )
        self.version = present[-1] if version is None else version
        place = folder / str(self.version)
        self.record = PackedRecord.read(place / RECORD)
        if self.record.file != ONNX_FILE:
            raise UnsupportedTarget(
                f"{place / self.record.file} is a TensorRT engine.",
                "Serve it with Triton, or pack with `backend=onnxruntime`.",
            )
        # Both forms, whichever is opened: one that was damaged says that the copy is bad.
        self.path = _checked(place, self.record.to_json())
        if self.record.cpu_form is not None:
            form = _checked(place, self.record.cpu_form)
            self.path = form if runs_on_cpu(device) else self.path
        opened = open_graph(self.path, device=device, threads=threads, next_step=PACK_AGAIN)
        self._session: Any = opened.session

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run a batch.

        Args:
            feeds: one array an input, (B, …) with B from 1 to the record's ``max_batch``.

        Returns:
            One array an output, by name; labels as objects of ``str``.

        Raises:
            BadInput: a missing or unknown input, another type, shape or batch; or the run failed.
        """
        self._require_here()
        check_feeds(self.record, feeds)
        names = [output.name for output in self.record.outputs]
        try:
            results = self._session.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime's derive from Exception alone
            batch = max((len(array) for array in feeds.values()), default=0)
            raise failed(self.path, batch, error) from error
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _checked(place: Path, entry: Mapping[str, Any]) -> Path:
    """The model file that the record names, once it is sure that it is that file."""
    try:
        path = place / check_name(str(entry["file"]))
        wanted = {"sha256": entry["sha256"], "bytes": entry["bytes"]}
    except KeyError as error:
        raise BadInput(f"{place / RECORD} lacks {error} of a file.", PACK_AGAIN) from error
    if not path.is_file():
        raise BadInput(f"{path} is missing.", PACK_AGAIN)
    with writing(path):
        found = file_entry(path)
    if found != wanted:
        raise BadInput(
            f"{path} is not the file that {RECORD} describes: size or hash differ.",
            f"It was changed or damaged. {PACK_AGAIN}",
        )
    return path


def check_feeds(record: PackedRecord, feeds: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse what the model cannot take, saying what it does take.

    Raises:
        BadInput: a missing or unknown input, another type or shape, NaN or infinity, or a batch
            out of range.
    """
    wanted = f"This model takes {', '.join(tensor.text for tensor in record.inputs)}."
    known = {tensor.name for tensor in record.inputs}
    for name in feeds:
        if name not in known:
            raise BadInput(f"There is no input {name!r}.", wanted)
    for tensor in record.inputs:
        if tensor.name not in feeds:
            raise BadInput(f"The input {tensor.name!r} is missing.", wanted)
        array = feeds[tensor.name]
        if array.dtype != tensor.dtype or array.shape[1:] != tensor.shape or array.ndim == 0:
            raise BadInput(
                f"The input {tensor.name!r} is {array.dtype} {tuple(array.shape)}.", wanted
            )
        if not 1 <= len(array) <= record.max_batch:
            raise BadInput(
                f"The batch is {len(array)}.", f"This model takes 1 to {record.max_batch} images."
            )
        if array.dtype.kind == "f":
            check_finite(array, f"The values of the input {tensor.name!r}")

"""MLServer's side of serving: bundles and packed models over the V2 protocol, without Triton.

``mimiq pack`` writes the ``model-settings.json`` that names this class, so ``mlserver start REPO``
serves every packed model of a repository. A bundle is served by a file of one's own::

    {"name": "deit", "implementation": "mimiq.runtime.mlserver_runtime.MimiqRuntime",
     "parameters": {"uri": "/models/deit_s-w8a8.mimiq",
                    "extra": {"backend": "openvino", "threads": 2}}}

``extra`` is what :func:`mimiq.runtime.open_bundle` takes: a backend, and its options.
Runs of one model take turns on one thread of their own, for ONNX Runtime spreads a single run over
the cores. With ``streams`` in ``extra``, which OpenVINO takes, so many runs go on side by side.
With MLServer's ``max_batch_size``, requests that wait run together, see :class:`Batcher`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mlserver import MLModel, ModelSettings
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.codecs.numpy import to_dtype
from mlserver.errors import InferenceError, MLServerError
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    ResponseOutput,
)
from mlserver.utils import to_absolute_path

from mimiq.errors import BadInput, MimiqError, shortened
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.manifest import MANIFEST
from mimiq.runtime.serving.batching import Batcher
from mimiq.runtime.serving.counterpart import PLATFORM_PREFIX
from mimiq.runtime.serving.killed_workers import outlive_killed_workers
from mimiq.runtime.serving.packed import PackedModel, PackedRecord, check_feeds, versions_of
from mimiq.runtime.serving.raw_contents import named, refuse_raw_contents_that_do_not_fit
from mimiq.runtime.serving.settings import BundleModel

outlive_killed_workers()  # the server imports this module, and its workers do
refuse_raw_contents_that_do_not_fit()

_UNPROCESSABLE = 422
_LONGEST_ID = 1000  # characters; longer headers than some 8000 bytes break clients
_LONGEST_ERROR = 600  # characters, each of up to 12 bytes where gRPC writes it into a header
_MAX_BATCH_SIZE = "mimiq_max_batch_size"


class _Served(Protocol):
    """What :class:`PackedModel` and :class:`BundleModel` have in common."""

    record: PackedRecord
    version: int

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]: ...

    def close(self) -> None: ...


class MimiqRuntime(MLModel):  # type: ignore[misc]  # MLServer ships no types
    """A bundle or packed model as a model of MLServer; ``parameters.uri`` is its folder.

    Each answer carries the parameter ``mimiq_manifest_sha256``: which bundle gave it. A malformed
    request is answered with status 400 (gRPC: ``INVALID_ARGUMENT``) and what the model takes.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._batcher: Batcher | None = None
        self._served: _Served | None = None
        folder = self._folder()
        parameters = settings.parameters
        # Requests may name the version that the metadata names: MLServer registers it from here,
        # before it loads the model.
        if folder is not None and parameters is not None and parameters.version is None:
            found = [1] if (folder / MANIFEST).is_file() else versions_of(folder)
            parameters.version = str(found[-1]) if found else None
        self._take_over_batching()

    def _take_over_batching(self) -> None:
        """Keep MLServer from joining requests: it would do so before they are checked.

        It makes this object in its own process and again, from the same settings, in each worker;
        what it does not see as its own setting must travel among the parameters.
        """
        size = self._settings.max_batch_size
        if size > 1 and self._settings.max_batch_time > 0 and self._settings.parameters is not None:
            self._settings.parameters.extra = {**self._extra(), _MAX_BATCH_SIZE: size}
            self._settings.max_batch_size = 0

    def _folder(self) -> Path | None:
        uri = getattr(self.settings.parameters, "uri", None)
        # A relative folder counts from the settings file.
        return Path(to_absolute_path(self._settings, str(uri))) if uri else None

    def _extra(self) -> dict[str, Any]:
        """What the settings say of how to open the model."""
        return dict(getattr(self.settings.parameters, "extra", None) or {})

    async def load(self) -> bool:
        """Open the model; what is wrong with it is MLServer's answer to whoever loads it."""
        folder = self._folder()
        if folder is None:
            raise MLServerError(f"Model {self.name} names no folder: set parameters.uri.", 422)
        extra = self._extra()
        together = int(extra.pop(_MAX_BATCH_SIZE, 1))
        try:
            self._served = await asyncio.to_thread(_open, folder, extra)
        except MimiqError as error:
            raise MLServerError(str(error), _UNPROCESSABLE) from error
        record = self._served.record
        # As many runs at a time as the backend has streams for: one, where nothing is said.
        self._batcher = Batcher(
            self._served.run,
            lanes=extra.get("streams") or 1,
            max_images=min(together, record.max_batch),
        )
        # Described here, from the model itself, so that the settings cannot contradict it.
        self._settings.platform = f"{PLATFORM_PREFIX}{record.backend}"
        self._settings.versions = [str(self._served.version)]
        self._settings.inputs = [_metadata(tensor) for tensor in record.inputs]
        self._settings.outputs = [_metadata(tensor) for tensor in record.outputs]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one request; its batch is the arrays' first dimension."""
        try:
            return await self._answer(payload)
        except InferenceError as error:  # what it repeats of the request may have any length
            raise InferenceError(shortened(str(error), _LONGEST_ERROR)) from error

    async def _answer(self, payload: InferenceRequest) -> InferenceResponse:
        _require_header(payload.id)
        served, batcher = self._served, self._batcher
        assert served is not None  # MLServer asks nothing of a model that failed to load
        assert batcher is not None
        record = served.record
        feeds: dict[str, npt.NDArray[Any]] = {}
        for tensor in payload.inputs:
            if tensor.name in feeds:
                raise InferenceError(f"The input {named(tensor.name)} came twice: send it once.")
            feeds[tensor.name] = _decoded(tensor)
        wanted = [output.name for output in payload.outputs or ()]
        known = [output.name for output in record.outputs]
        for name in wanted:
            if name not in known:
                raise InferenceError(
                    f"There is no output {named(name)}; this model gives {', '.join(known)}."
                )
        try:
            check_feeds(record, feeds)
            results = await asyncio.wrap_future(batcher.submit(feeds))
        except MimiqError as error:
            raise InferenceError(f"{error.problem} {error.next_step}") from error
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            model_version=str(served.version),
            parameters=Parameters(mimiq_manifest_sha256=record.manifest_sha256),
            outputs=[_encoded(name, results[name]) for name in wanted or known],
        )

    async def unload(self) -> bool:
        """Free the model."""
        if self._batcher is not None:
            self._batcher.close()
        if self._served is not None:
            self._served.close()
        return True


def _open(folder: Path, extra: Mapping[str, Any]) -> _Served:
    if (folder / MANIFEST).is_file():
        return BundleModel(Bundle(folder), **extra)
    unknown = sorted(set(extra) - {"threads"})
    if unknown:
        raise BadInput(
            f"A packed model takes no {unknown[0]!r} in parameters.extra.",
            "Serve the bundle itself: let parameters.uri name its folder.",
        )
    return PackedModel(folder, **extra)


def _metadata(tensor: Any) -> MetadataTensor:
    return MetadataTensor(name=tensor.name, datatype=tensor.datatype, shape=[-1, *tensor.shape])


def _require_header(text: str | None) -> None:
    """Refuse an id that MLServer cannot copy into a header of the answer, as it does."""
    if text and (
        len(text) > _LONGEST_ID
        or not (text.isascii() and text.isprintable())
        or text != text.strip()
    ):
        raise InferenceError(
            f"The request's id cannot stand in a header: send at most {_LONGEST_ID} printable "
            "ASCII characters, without blanks around them, or none."
        )


def _decoded(tensor: Any) -> npt.NDArray[Any]:
    shape = tuple(tensor.shape)
    if not shape or min(shape) < 0:
        raise InferenceError(f"The input {named(tensor.name)} has no shape: {list(shape)}.")
    datatype = getattr(tensor.datatype, "value", tensor.datatype)
    data = getattr(tensor.data, "root", tensor.data)
    try:
        given = np.asarray(data) if isinstance(data, list) and datatype != "BYTES" else None
        if given is not None:
            _require_numbers(tensor.name, datatype, given)
            if datatype.startswith("FP") and given.dtype.kind in "iuf":  # no second conversion
                with np.errstate(over="ignore"):  # infinity is refused later
                    return given.astype(to_dtype(tensor)).reshape(shape)
        return np.asarray(NumpyCodec.decode_input(tensor))
    except InferenceError:
        raise
    except Exception as error:  # numpy's, struct's and the codec's own, by the kind of damage
        raise InferenceError(
            f"The data of the input {named(tensor.name)} are not {datatype} of shape "
            f"{list(shape)}: {error}"
        ) from error


def _require_numbers(name: str, datatype: str, given: npt.NDArray[Any]) -> None:
    """Refuse what JSON or gRPC brought and the codec would make numbers of in silence."""
    kind = given.dtype.kind
    if kind in "USb" and datatype != "BOOL":  # S: bytes, of gRPC
        found = "true and false" if kind == "b" else "texts"
        raise InferenceError(
            f"The data of the input {named(name)} are {found}, and it takes numbers ({datatype})."
        )
    if kind == "f" and given.size and "INT" in datatype:  # [0, 1] would be cut off to black
        raise InferenceError(
            f"The data of the input {named(name)} are floats, and it takes {datatype}: pixels in "
            "[0, 255], not normalised."
        )


def _encoded(name: str, array: npt.NDArray[Any]) -> ResponseOutput:
    if array.dtype != np.object_:
        return NumpyCodec.encode_output(name, array)
    encoded = StringCodec.encode_output(name, [str(text) for text in array.ravel()])
    encoded.shape = list(array.shape)
    return encoded

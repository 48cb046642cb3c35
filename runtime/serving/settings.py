"""A bundle as a server sees it: tensors by the manifest's names, run by any backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy.typing as npt

from mimiq.errors import BadInput
from mimiq.runtime.bundle import MODEL, Bundle
from mimiq.runtime.opening import open_bundle
from mimiq.runtime.serving.packed import PackedRecord, Tensor

MAX_BATCH = 256
_DATATYPES = {"float32": "FP32", "uint8": "UINT8", "int64": "INT64"}


def manifest_tensors(bundle: Bundle, side: Literal["inputs", "outputs"]) -> tuple[Tensor, ...]:
    """The manifest's inputs or outputs as the V2 protocol names them.

    Raises:
        BadInput: the batch is fixed, or a type has no name in the protocol.
    """
    found = []
    for entry in bundle.manifest.tensors(side):
        try:
            batch, *shape = entry["shape"]
            tensor = Tensor(str(entry["name"]), _DATATYPES[entry["dtype"]], tuple(map(int, shape)))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"The manifest of {bundle.path} describes its {side} in a way that cannot be "
                f"served: {entry}.",
                "Compile the model again.",
            ) from error
        if isinstance(batch, int):
            raise BadInput(
                f"{bundle.path} takes batches of {batch} alone, which a server cannot fill.",
                "Export it with a dynamic batch.",
            )
        found.append(tensor)
    return tuple(found)


class BundleModel:
    """A bundle with the interface of :class:`~mimiq.runtime.serving.packed.PackedModel`; version 1.

    Args:
        bundle: what to serve.
        backend, options: see :func:`mimiq.runtime.open_bundle`.

    Raises:
        BadInput, EnvironmentLacks: as :func:`mimiq.runtime.open_bundle`.
    """

    def __init__(self, bundle: Bundle, backend: str = "auto", **options: Any) -> None:
        entry = bundle.manifest.files[MODEL]
        self.version = 1
        self._session = open_bundle(bundle, backend, **options)
        self.record = PackedRecord(
            backend=self._session.backend,
            model=bundle.model_name,
            precision=bundle.precision_label,
            mimiq=bundle.manifest.mimiq,
            manifest_sha256=bundle.digest,
            file=MODEL,
            sha256=entry.sha256,
            bytes=entry.bytes,
            inputs=manifest_tensors(bundle, "inputs"),
            outputs=manifest_tensors(bundle, "outputs"),
            labels_sha256=None,
            config_sha256="",
            max_batch=MAX_BATCH,
        )

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run a batch: the network's input by name to its logits by name."""
        (images,) = (feeds[tensor.name] for tensor in self.record.inputs)
        return {self.record.outputs[0].name: self._session.run(images)}

    def close(self) -> None:
        """Free the session; a second call does nothing."""
        self._session.close()

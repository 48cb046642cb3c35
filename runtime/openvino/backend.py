"""OpenVINO on the CPU as a backend."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq.errors import DidNotStart, EnvironmentLacks
from mimiq.runtime.backend import Backend, Lack
from mimiq.runtime.openvino.library import EXTRA, import_openvino, is_installed

if TYPE_CHECKING:
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.openvino.session import OpenVINOSession

_LOGGER = logging.getLogger(__name__)
_OPTIONS = frozenset({"threads", "streams", "hint", "floats", "weights", "own_batches", "cache"})


@dataclass(frozen=True)
class OpenVINO:
    """See :class:`mimiq.runtime.backend.Backend`."""

    name: str = "openvino"
    title: str = "OpenVINO on the CPU"
    extra: str | None = EXTRA
    label: str = "openvino-cpu"
    options: frozenset[str] = _OPTIONS
    reads_graphs: bool = True

    def why_not(self) -> Lack | None:
        if not is_installed():
            return Lack(f"OpenVINO is not installed (extra {EXTRA!r}).", EXTRA)
        try:
            import_openvino()
        except EnvironmentLacks as error:
            return Lack(error.problem, remedy=error.next_step)
        return None

    def suits(self, bundle: Bundle) -> bool:
        from mimiq.runtime.latency.tuned import fastest

        # Which of two is quicker on a CPU is not known before it is measured.
        return fastest(bundle) == self.name and self.why_not() is None

    def graph_of(self, bundle: Bundle) -> str:
        from mimiq.runtime.bundle import MODEL

        return MODEL

    def answering(self, label: str) -> Backend | None:
        return self if label == self.label else None

    def open(self, bundle: Bundle, **options: Any) -> OpenVINOSession:
        from mimiq.runtime.bundle import MODEL, OPENVINO_MODEL
        from mimiq.runtime.openvino.networks import Refused
        from mimiq.runtime.openvino.session import OpenVINOSession

        form = OPENVINO_MODEL if bundle.has(OPENVINO_MODEL) else MODEL
        if form == MODEL and bundle.precision.quantizes_activations:
            _LOGGER.warning(
                "%s was compiled before there was a form for OpenVINO. Opened %s instead, which is "
                "slower; compile the model again.",
                bundle.path,
                MODEL,
            )
        try:
            return OpenVINOSession(bundle.file(form), bundle.preprocessing, **options)
        except Refused as error:  # the file is as it was written, so the release lacks something
            raise DidNotStart(error.problem, error.next_step) from error

    def open_graph(self, path: Path, **options: Any) -> OpenVINOSession:
        from mimiq.runtime.openvino.session import OpenVINOSession

        return OpenVINOSession(path, **options)


OPENVINO = OpenVINO()

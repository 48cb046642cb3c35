"""OpenVINO on the CPU as a backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq.errors import EnvironmentLacks
from mimiq.runtime.backend import Backend, Lack
from mimiq.runtime.openvino.library import EXTRA, import_openvino, is_installed

if TYPE_CHECKING:
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.openvino.session import OpenVINOSession

_OPTIONS = frozenset({"threads", "streams", "hint", "floats", "own_batches", "cache"})


@dataclass(frozen=True)
class OpenVINO:
    """See :class:`mimiq.runtime.backend.Backend`."""

    name: str = "openvino"
    title: str = "OpenVINO on the CPU"
    extra: str | None = EXTRA
    label: str = "openvino-cpu"
    options: frozenset[str] = _OPTIONS

    def why_not(self) -> Lack | None:
        if not is_installed():
            return Lack(f"OpenVINO is not installed (extra {EXTRA!r}).", EXTRA)
        try:
            import_openvino()
        except EnvironmentLacks as error:
            return Lack(error.problem, remedy=error.next_step)
        return None

    def suits(self, bundle: Bundle) -> bool:
        return False  # which of two is quicker on this CPU is not known before it is measured

    def graph_of(self, bundle: Bundle) -> str:
        from mimiq.runtime.bundle import MODEL

        return MODEL

    def answering(self, label: str) -> Backend | None:
        return self if label == self.label else None

    def open(self, bundle: Bundle, **options: Any) -> OpenVINOSession:
        from mimiq.runtime.openvino.session import OpenVINOSession

        return OpenVINOSession(bundle.file(self.graph_of(bundle)), bundle.preprocessing, **options)

    def open_graph(self, path: Path, **options: Any) -> OpenVINOSession:
        from mimiq.runtime.openvino.session import OpenVINOSession

        return OpenVINOSession(path, **options)


OPENVINO = OpenVINO()

"""What a backend is: something that runs bundles and graphs, or says why it cannot here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mimiq.errors import EnvironmentLacks, pip_install

if TYPE_CHECKING:
    from pathlib import Path

    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.session import Session


@dataclass(frozen=True)
class Lack:
    """What keeps this host from doing something.

    Attributes:
        reason: what is missing or in the way, as a sentence.
        extra: the extra of this distribution that would bring it.
        remedy: what else would help, as a command or a sentence; empty where nothing does.
    """

    reason: str
    extra: str | None = None
    remedy: str = ""

    @property
    def next_step(self) -> str:
        """What to do; empty where nothing helps."""
        return self.remedy or (pip_install(self.extra) if self.extra else "")

    def error(self) -> EnvironmentLacks:
        """The error for somebody who asked for it by name."""
        return EnvironmentLacks(self.reason, self.next_step)


class Backend(Protocol):
    """A way to run a bundle; one value each, listed in :mod:`mimiq.runtime.backends`."""

    @property
    def name(self) -> str:
        """What it is called by ``backend=…``."""

    @property
    def title(self) -> str:
        """What it is, for people."""

    @property
    def extra(self) -> str | None:
        """The extra that installs its library; None where that comes with mimiq."""

    @property
    def label(self) -> str:
        """What its sessions call themselves, and reports with them: ``onnxruntime-cpu``."""

    @property
    def options(self) -> frozenset[str]:
        """Which options :meth:`open` and :meth:`open_graph` take."""

    @property
    def reads_graphs(self) -> bool:
        """Whether it runs any ONNX file as it is, without building an engine first."""

    def why_not(self) -> Lack | None:
        """What keeps this host from using it; None where nothing is known to."""

    def suits(self, bundle: Bundle) -> bool:
        """Whether ``auto`` opens this bundle with it, here and at once; an engine is not loaded."""

    def graph_of(self, bundle: Bundle) -> str:
        """Name in the bundle of the graph whose numbers it computes."""

    def answering(self, label: str) -> Backend | None:
        """This backend, or its variant, if a session of that ``backend`` is one of its own."""

    def open(self, bundle: Bundle, **options: Any) -> Session:
        """A session of the bundle.

        Raises:
            BadInput: the bundle is damaged, or an option unknown.
            EnvironmentLacks: what it needs is not on this host.
            DidNotStart: nothing seemed to be missing, and it does not start; ``auto`` goes on.
        """

    def open_graph(self, path: Path, **options: Any) -> Session:
        """A session of an ONNX file, whose output may be wider than a bundle's.

        Raises:
            BadInput, EnvironmentLacks: as :meth:`open`.
        """

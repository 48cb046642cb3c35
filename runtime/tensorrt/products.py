"""The two products, TensorRT and TensorRT-RTX, behind one small value."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

from mimiq.errors import BadInput, EnvironmentLacks, missing_extra, pip_install
from mimiq.runtime.backend import Lack


@dataclass(frozen=True)
class Product:
    """One of NVIDIA's two builders and runtimes; their Python interfaces are nearly the same.

    Attributes:
        name: ``rtx`` or ``trt``: the target on the command line, and the extra that installs it.
        title: the name it goes by.
        label: what sessions of its engines call themselves.
        module: what is imported.
        oldest: the first version whose interface is the one used here.
        ahead_of_time: it compiles for GPUs that need not be there, in seconds; otherwise it times
            kernels on the GPU at hand, for minutes.
    """

    name: Literal["rtx", "trt"]
    title: str
    label: str
    module: str
    oldest: tuple[int, int]
    ahead_of_time: bool

    @property
    def is_installed(self) -> bool:
        """Whether the library can be found; it is not loaded."""
        return importlib.util.find_spec(self.module) is not None

    def load(self) -> Any:
        """The imported library.

        Raises:
            EnvironmentLacks: it is absent, its shared libraries do not load, or it is too old.
        """
        if not self.is_installed:
            raise missing_extra(self.title, self.name)
        try:
            library = importlib.import_module(self.module)
        except (ImportError, OSError, RuntimeError) as error:
            raise EnvironmentLacks(
                f"{self.title} is installed, but does not load: {error}",
                f"Install it again with: {pip_install(self.name, '--force-reinstall')}",
            ) from error
        if _numbers(str(library.__version__)) < self.oldest:
            raise EnvironmentLacks(
                f"{self.title} {library.__version__} is too old.",
                f"Install version {'.'.join(map(str, self.oldest))} or later.",
            )
        return library

    @property
    def version(self) -> str:
        """The installed version, such as ``1.7.1.116``.

        Raises:
            EnvironmentLacks: as :meth:`load`.
        """
        return str(self.load().__version__)

    def why_not_run(self) -> Lack | None:
        """What keeps this host from running an engine; None where nothing is known to."""
        from mimiq.runtime.host import cuda_driver_present
        from mimiq.runtime.tensorrt.cuda import gpu_or_reason

        if not self.is_installed:
            reason = f"{self.title} is not installed (extra {self.name!r})."
            # Without a GPU it would not help to install what does nothing without one.
            return Lack(reason, self.name if self.ahead_of_time or cuda_driver_present() else None)
        gpu = gpu_or_reason()
        return Lack(gpu) if isinstance(gpu, str) else None

    def why_not_build(self) -> Lack | None:
        """What keeps this host from building an engine; None where nothing is known to."""
        if self.ahead_of_time and self.is_installed:
            return None
        return self.why_not_run()

    def can_run_here(self) -> bool:
        return self.why_not_run() is None

    def can_build_here(self) -> bool:
        return self.why_not_build() is None


RTX = Product("rtx", "TensorRT-RTX", "tensorrt-rtx", "tensorrt_rtx", (1, 3), ahead_of_time=True)
TRT = Product("trt", "TensorRT", "tensorrt", "tensorrt", (10, 8), ahead_of_time=False)
PRODUCTS = (RTX, TRT)


def find_product(name: str) -> Product | None:
    """``rtx`` or ``trt``; None for any other name."""
    return next((product for product in PRODUCTS if product.name == name), None)


def product_named(name: str) -> Product:
    """``rtx`` or ``trt``.

    Raises:
        BadInput: for any other name.
    """
    product = find_product(name)
    if product is None:
        raise BadInput(f"{name!r} is neither rtx nor trt.", "Choose `target=rtx` or `target=trt`.")
    return product


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split(".")[:2]:
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)

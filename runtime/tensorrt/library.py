"""The two products, TensorRT and TensorRT-RTX, behind one small value."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from mimiq.errors import BadInput, EnvironmentLacks, missing_extra, pip_install


@dataclass(frozen=True)
class Product:
    """One of NVIDIA's two builders and runtimes; their Python interfaces are nearly the same.

    Attributes:
        name: ``rtx`` or ``trt``: the target on the command line, and the extra that installs it.
        title: the name it goes by.
        module: what is imported.
        oldest: the first version whose interface is the one used here.
    """

    name: str
    title: str
    module: str
    oldest: tuple[int, int]

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

    def why_not_run(self) -> str | None:
        """What keeps this host from running an engine; None where nothing is known to."""
        from mimiq.runtime.tensorrt.cuda import gpu_or_reason

        if not self.is_installed:
            return f"{self.title} is not installed (extra {self.name!r})."
        gpu = gpu_or_reason()
        return gpu if isinstance(gpu, str) else None

    def can_run_here(self) -> bool:
        return self.why_not_run() is None

    def can_build_here(self) -> bool:
        """TensorRT-RTX compiles ahead of time on any host; TensorRT times kernels on the GPU."""
        return self.is_installed if self.name == "rtx" else self.can_run_here()


RTX = Product("rtx", "TensorRT-RTX", "tensorrt_rtx", (1, 3))
TRT = Product("trt", "TensorRT", "tensorrt", (10, 8))
PRODUCTS = (RTX, TRT)


def product_named(name: str) -> Product:
    """``rtx`` or ``trt``.

    Raises:
        BadInput: for any other name.
    """
    for product in PRODUCTS:
        if product.name == name:
            return product
    raise BadInput(f"{name!r} is neither rtx nor trt.", "Choose `target=rtx` or `target=trt`.")


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split(".")[:2]:
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)

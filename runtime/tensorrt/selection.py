"""Which of a bundle's engines this host may run, and their rebuilding where it may run none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq.errors import BadInput, EnvironmentLacks, MimiqError
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.tensorrt.builder import engine_builder
from mimiq.runtime.tensorrt.cuda import Gpu, gpu_or_reason
from mimiq.runtime.tensorrt.record import BUILD_AGAIN, ENGINES, EngineRecord

if TYPE_CHECKING:
    from mimiq.runtime.tensorrt.products import Product
    from mimiq.runtime.tensorrt.session import TensorRTSession


@dataclass(frozen=True)
class Engine:
    """An engine in a bundle: its name in the manifest (``engines/….plan``), and its record."""

    name: str
    record: EngineRecord


def engines_of(bundle: Bundle) -> list[Engine]:
    """Every engine of a bundle; FP8, which must be asked for, before the others, then by name.

    Raises:
        BadInput: a record is missing or broken.
    """
    names = sorted(
        name
        for name in bundle.manifest.files
        if name.startswith(ENGINES) and name.endswith(".plan")
    )
    engines = [Engine(name, EngineRecord.read(bundle.file(_record_name(name)))) for name in names]
    return sorted(engines, key=lambda engine: not engine.record.is_fp8)


def can_run(bundle: Bundle, product: Product) -> bool:
    """Whether this host can run an engine of the bundle's, at most after a rebuild of seconds.

    It asks the product, the driver and the record, and lets TensorRT-RTX look at the engine's
    header, but loads no engine.

    Args:
        bundle: with or without engines.
        product: whose engines are looked at.
    """
    try:
        engines = engines_of(bundle)
    except BadInput:
        return False
    mine = [engine for engine in engines if engine.record.product == product.name]
    return any(_usable(bundle, engine, product) for engine in mine)


def _usable(bundle: Bundle, engine: Engine, product: Product) -> bool:
    if not product.can_run_here():
        return False
    gpu = gpu_or_reason()
    if isinstance(gpu, str):
        return False
    if why_not(bundle, engine, product, gpu) is not None:
        return product.ahead_of_time  # built again in seconds
    return not product.ahead_of_time or _header_fits(bundle.file(engine.name), product)


def why_not(bundle: Bundle, engine: Engine, product: Product, gpu: Gpu | None) -> str | None:
    """Why this engine must not be run here; None where nothing speaks against it."""
    return engine.record.mismatch(product.version, gpu, _digest(bundle, engine.record.source))


def open_tensorrt(
    bundle: Bundle, product: Product, *, rebuild: bool = True, **options: Any
) -> TensorRTSession:
    """Open a bundle's engine.

    An engine of another version, another GPU or another graph is never run: it is built again and
    put in the bundle, or this fails.

    Args:
        bundle: a bundle, with or without engines.
        product: whose engine.
        rebuild: build where no engine fits; otherwise that is an error.
        options: of :class:`~mimiq.runtime.tensorrt.session.TensorRTSession`.

    Raises:
        BadInput: the engine is damaged.
        EnvironmentLacks: the product, the driver or the GPU is absent; or no engine fits, and none
            may be built.
        MimiqError: the rebuild failed; see :mod:`mimiq.runtime.tensorrt.builder`.
    """
    from mimiq.runtime.tensorrt.session import TensorRTSession

    library = product.load()
    engine = _fitting_engine(bundle, product, rebuild)
    return TensorRTSession(
        bundle.path / engine.name,
        library,
        product,
        bundle.preprocessing,
        precision="fp8" if engine.record.is_fp8 else "",
        **options,
    )


def _fitting_engine(bundle: Bundle, product: Product, rebuild: bool) -> Engine:
    """An engine of this product that fits this host, built now if need be."""
    gpu = gpu_or_reason()
    if isinstance(gpu, str):
        raise EnvironmentLacks(gpu, "Run on a host with an NVIDIA GPU, or use `backend=ort`.")
    mine = [engine for engine in engines_of(bundle) if engine.record.product == product.name]
    reasons = []
    for engine in mine:
        reason = why_not(bundle, engine, product, gpu)
        if reason is None:
            return engine
        reasons.append(f"{engine.name}: {reason}")
    problem = "; ".join(reasons) or f"the bundle has no {product.title} engine"
    if not rebuild:
        raise EnvironmentLacks(f"No engine fits this host: {problem}.", BUILD_AGAIN)
    like = mine[0].record if mine else None
    try:
        return Engine(*engine_builder().of_bundle(bundle, product, like, gpu))
    except MimiqError as error:
        raise type(error)(
            f"{problem}. Building it here failed: {error.problem}", error.next_step
        ) from error


def _header_fits(plan: Path, product: Product) -> bool:
    """TensorRT-RTX's own judgement of an engine for this GPU and driver, from its first bytes."""
    library = product.load()
    runtime = library.Runtime(_silent(library))
    judge = getattr(runtime, "get_engine_validity", None)
    if judge is None:
        return True
    with plan.open("rb") as stream:
        header = stream.read(int(runtime.engine_header_size))
    validity, _ = judge(header)
    return bool(validity != library.EngineValidity.INVALID)


def _silent(library: Any) -> Any:
    from mimiq.runtime.tensorrt.messages import collector

    return collector(library, [])


def _digest(bundle: Bundle, source: str) -> str | None:
    entry = bundle.manifest.files.get(source)
    return None if entry is None else entry.sha256


def _record_name(plan: str) -> str:
    return plan.removesuffix(".plan") + ".json"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Opening an ONNX file with ONNX Runtime: provider, threads, kernels that suit the host."""

from __future__ import annotations

import mmap
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mimiq.errors import BadInput, DidNotStart, EnvironmentLacks, MimiqError
from mimiq.files import exhausted, lack_of_memory, refuse_exhausted, require_utf8
from mimiq.runtime.backend import Lack
from mimiq.runtime.forking import end_children_at_once
from mimiq.runtime.host import check_count, cuda_driver_present, instruction_sets, usable_cores
from mimiq.runtime.onnxruntime.wheels import GPU, swap_for

# On Q/DQ graphs these two cost the integer kernels, or fail (ONNX Runtime 1.31, x86-64):
# MatMulAddFusion turns int8 MatMul + Add into a Gemm, whose Q/DQ form without a quantised output
# has no integer kernel; and both move QuantizeLinear nodes about that the int8-to-uint8 rewrite
# then gives a uint8 zero point while their output_dtype still says INT8, which ends loading.
_HARMFUL_TO_QDQ = ("MatMulAddFusion", "QDQPropagationTransformer")
# Their kernels on a CPU are slower than the nodes they replace: SkipLayerNormalization takes ten
# times as long as Add and LayerNormalization, BiasGelu lacks the AVX-512 path that Gelu has.
_SLOW_ON_CPU = ("SkipLayerNormFusion", "BiasGeluFusion")
# Makes every int8 activation uint8, the second operand of a product as well: sums are then exact on
# any x86, in 16 bits at half the speed of the uint8 × int8 kernel of VNNI, which is exact anyway.
_SIGNED_TO_UNSIGNED = "QDQS8ToU8Transformer"
_CPU_FORM = b"MatMulIntegerToFloat"
_SPINNING_KEY = "session.intra_op.allow_spinning"
# INT4 weight-only: ONNX Runtime would round the floating-point activations to INT8 by default.
_MATMULNBITS_KEY, _FP32_ACTIVATIONS = "session.qdq_matmulnbits_accuracy_level", "1"
_EXACT_KEY = "session.x64quantprecision"
_QUIET = 4  # severity: fatal alone; what fails comes back as an exception
_DAMAGED = (
    "The file is damaged or uses operators this version lacks; compile the model again, or update "
    "onnxruntime."
)
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
}
_VNNI = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})


@dataclass(frozen=True)
class IntegerKernels:
    """How ONNX Runtime multiplies bytes on this CPU.

    Attributes:
        name: of the instructions, e.g. ``AVX512-VNNI``.
        saturates: whether the quick uint8 × int8 kernel adds pairs of products in 16 bits, so that
            exact sums of 8-bit weights need the slower uint8 × uint8 kernel.
        text: for people: whether INT8 can be expected to pay.
    """

    name: str
    saturates: bool
    text: str


def integer_kernels(sets: list[str] | None = None, machine: str | None = None) -> IntegerKernels:
    """Judge by the instruction sets; the measurements are in ``benchmarks/results``.

    Args:
        sets: as :func:`mimiq.runtime.host.instruction_sets` gives them; None for this host's.
        machine: as ``platform.machine()`` gives it; None for this host's.
    """
    found = set(instruction_sets() if sets is None else sets)
    machine = (platform.machine() if machine is None else machine).lower()
    if machine not in ("x86_64", "amd64"):
        name = "i8mm" if "i8mm" in found else "dot product" if "asimddp" in found else "plain"
        text = "not measured on this architecture; mimiq bench tells what INT8 gains"
        return IntegerKernels(name, False, text)
    if found & _VNNI:
        names = (("amx_int8", "AMX"), ("avx512_vnni", "AVX512-VNNI"), ("avx_vnni", "AVX-VNNI"))
        name = next(title for key, title in names if key in found)
        return IntegerKernels(name, False, "exact, and about twice as fast as fp32 on DeiT-T")
    name = "AVX-512 without VNNI" if "avx512f" in found else "AVX2 without VNNI"
    if "avx2" not in found:
        name = "SSE"
    text = (
        "the quick kernel saturates with 8-bit weights, so they take the exact one, which gains "
        "little over fp32, or loses on old cores: mimiq bench tells; 4-bit weights are exact in "
        "the quick one"
    )
    return IntegerKernels(name, True, text)


@dataclass(frozen=True)
class OpenedGraph:
    """An ONNX Runtime session.

    Attributes:
        session: ``onnxruntime.InferenceSession``.
        on_gpu: whether its CUDA provider is active.
    """

    session: Any
    on_gpu: bool

    @property
    def backend(self) -> str:
        """``onnxruntime-cuda`` or ``onnxruntime-cpu``."""
        return "onnxruntime-cuda" if self.on_gpu else "onnxruntime-cpu"


def open_graph(
    path: Path,
    *,
    device: Literal["cpu", "cuda", "auto"] | str = "auto",
    threads: int | None = None,
    spinning: bool = True,
    exact: bool | None = None,
    optimized_model: Path | None = None,
    next_step: str = _DAMAGED,
) -> OpenedGraph:
    """Open a graph, quantised or not.

    Args:
        path: the ``.onnx`` file.
        device: ``cpu``, ``cuda`` (an error where it cannot be used), or ``auto``.
        threads: CPU threads, or None for one a core that this process may use.
        spinning: let idle threads wait actively.
        exact: keep int8 sums exact where the quick kernel saturates; None: where it is needed.
        optimized_model: where to write the graph as ONNX Runtime runs it.
        next_step: what to tell the user of a file that cannot be opened.

    Raises:
        BadInput: unknown options, or the file is missing or corrupt, or its path is not UTF-8.
        EnvironmentLacks: ``cuda`` was asked for and cannot be used; no onnxruntime; or memory or
            open files are exhausted.
    """
    if device not in ("cpu", "cuda", "auto"):
        raise BadInput(f"Device {device!r} is unknown.", "Choose cpu, cuda or auto.")
    check_count(threads, "threads")
    onnxruntime = import_onnxruntime()
    require_utf8(path, "ONNX Runtime")
    quantized, integers, cpu_form = _contains(
        path, b"DequantizeLinear", b"QuantizeLinear", _CPU_FORM
    )
    providers = ["CPUExecutionProvider"]
    on_cpu = runs_on_cpu(device)
    if not on_cpu:
        _require_cuda(onnxruntime)
        providers.insert(0, "CUDAExecutionProvider")

    def create(exact: bool) -> Any:
        # New options each time: it warns on stderr when an entry is set twice.
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _QUIET
        options.intra_op_num_threads = threads or _default_threads()
        options.add_session_config_entry(_SPINNING_KEY, "1" if spinning else "0")
        options.add_session_config_entry(_EXACT_KEY, "1" if exact else "0")
        options.add_session_config_entry(_MATMULNBITS_KEY, _FP32_ACTIVATIONS)
        if optimized_model is not None:
            options.optimized_model_filepath = str(optimized_model)
        disabled = list(_HARMFUL_TO_QDQ) if quantized else []
        if quantized and on_cpu:
            disabled += _SLOW_ON_CPU
            if cpu_form and not exact:
                disabled.append(_SIGNED_TO_UNSIGNED)
        try:
            return onnxruntime.InferenceSession(
                str(path), options, providers=providers, disabled_optimizers=disabled
            )
        except Exception as error:  # its classes derive from Exception alone
            refused = f"{path} cannot be opened by ONNX Runtime {onnxruntime.__version__}"
            raise exhausted(error, refused) or BadInput(
                f"{refused}: {first_line(error)}", next_step
            ) from error

    if exact is None:
        exact = integer_kernels().saturates
    # Without integer products there is nothing to keep exact, and ONNX Runtime up to 1.29 aborts
    # the process when it prepares weights alone for it on a CPU without VNNI.
    exact = exact and quantized and integers
    session = create(exact)
    on_gpu = "CUDAExecutionProvider" in session.get_providers()
    if device == "cuda" and not on_gpu:
        raise DidNotStart(
            "ONNX Runtime could not start its CUDA provider.",
            "Install the CUDA and cuDNN libraries it was built for, or use `backend=ort`.",
        )
    if exact and not _runs(session):
        session = create(exact=False)
    return OpenedGraph(session, on_gpu)


def runs_on_cpu(device: str) -> bool:
    """Whether ``cpu``, ``cuda`` or ``auto`` means the CPU on this host."""
    return device == "cpu" or (device == "auto" and not _cuda_usable())


def import_onnxruntime() -> Any:
    """The library.

    Raises:
        EnvironmentLacks: it is not installed, or broken, or there is no memory for it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise exhausted(error, "onnxruntime cannot be imported") or EnvironmentLacks(
            f"onnxruntime cannot be imported: {error}.",
            "Install it with: pip install onnxruntime-gpu (without a GPU: onnxruntime).",
        ) from error
    end_children_at_once()
    return onnxruntime


def first_line(error: Exception) -> str:
    """What an error says, without what follows."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def failed(path: Path, batch: int, error: Exception) -> MimiqError:
    """What a run's failure means to the user."""
    if lack_of_memory(error) is not None:
        return EnvironmentLacks(
            f"The memory is exhausted: {path} needs more at batch {batch}.",
            "Use a smaller batch, or a host with more memory.",
        )
    return BadInput(
        f"{path} failed in ONNX Runtime at batch {batch}: {first_line(error)}",
        "Try a smaller batch; if it fails at 1, compile the model again.",
    )


def _runs(session: Any) -> bool:
    """Zeros, for what fails only when run.

    The rewrite for exact sums breaks DequantizeLinear of per-channel weights that come without
    zero points and stay in floating point (the patch embedding's).
    """
    feeds = {}
    for given in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in given.shape]
        if given.type not in _DTYPES:
            return True  # nothing of ours
        feeds[given.name] = np.zeros(shape, _DTYPES[given.type])
    try:
        session.run(None, feeds)
    except Exception as error:
        refuse_exhausted(error, "a first run failed")
        return False
    return True


def _default_threads() -> int:
    """0 lets ONNX Runtime take the physical cores; it does not see a container's share of them."""
    usable = usable_cores()
    return usable if usable < (os.cpu_count() or 1) else 0


def _contains(model: Path, *words: bytes) -> list[bool]:
    """Whether the file holds these operators; read without an ONNX library."""
    try:
        with (
            model.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return [content.find(word) >= 0 for word in words]
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        reason = error.strerror if isinstance(error, OSError) else "it is empty"
        raise exhausted(error, f"{model} cannot be read") or BadInput(
            f"{model} cannot be read: {reason}.", "Give an ONNX file, or compile the model again."
        ) from error


def _cuda_usable() -> bool:
    return why_not_cuda(import_onnxruntime()) is None


def why_not_cuda(onnxruntime: Any) -> Lack | None:
    """What keeps the library from the GPU; None where nothing is known to.

    The driver is looked for first: the provider fails loudly on stderr where there is none.
    """
    if not cuda_driver_present():
        return Lack("No NVIDIA driver and GPU can be used on this host.")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return Lack(
            f"ONNX Runtime {onnxruntime.__version__} was built without CUDA.",
            remedy=f"Replace it: {swap_for(GPU)}",
        )
    return None


def _require_cuda(onnxruntime: Any) -> None:
    lack = why_not_cuda(onnxruntime)
    if lack is not None:
        fallback = "Use `backend=ort`, or run on a host with an NVIDIA GPU."
        raise EnvironmentLacks(lack.reason, lack.next_step or fallback)
    if hasattr(onnxruntime, "preload_dlls"):
        # CUDA and cuDNN may live in the wheels that PyTorch brought; missing ones are printed.
        import contextlib
        import io

        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()

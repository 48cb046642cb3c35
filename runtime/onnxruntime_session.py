"""ONNX Runtime: the backend that every host has."""

from __future__ import annotations

import mmap
import os
import platform
from pathlib import Path
from typing import Any, Self

import numpy as np

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime.hardware import cuda_driver_present, instruction_sets, usable_cores
from mimiq.runtime.preprocessing import FloatArray, Preprocessing
from mimiq.runtime.session import Images, as_input

# On Q/DQ graphs these two cost the integer kernels, or fail (ONNX Runtime 1.31, x86-64):
# MatMulAddFusion turns int8 MatMul + Add into a Gemm, whose Q/DQ form without a quantised output
# has no integer kernel; and both move QuantizeLinear nodes about that the int8-to-uint8 rewrite
# then gives a uint8 zero point while their output_dtype still says INT8, which ends loading.
_HARMFUL_TO_QDQ = ["MatMulAddFusion", "QDQPropagationTransformer"]
_SPINNING_KEY = "session.intra_op.allow_spinning"
# INT4 weight-only: ONNX Runtime would round the floating-point activations to INT8 by default.
_MATMULNBITS_KEY, _FP32_ACTIVATIONS = "session.qdq_matmulnbits_accuracy_level", "1"
_EXACT_KEY = "session.x64quantprecision"
_QUIET = 4  # severity: fatal alone; what fails comes back as an exception
_FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntimeSession:
    """An ONNX graph with one image input and one (B, classes) output, opened by ONNX Runtime.

    Args:
        model: the ``.onnx`` file.
        preprocessing: lets ``run`` take uint8 pixels.
        device: ``cpu``, ``cuda`` (an error where it cannot be used), or ``auto``.
        threads: CPU threads, or None for one a core that this process may use.
        spinning: let idle threads wait actively: quicker alone in a process, slower beside
            another busy session.
        exact: keep int8 sums exact on x86 CPUs without VNNI, whose quick kernel adds pairs of
            products in 16 bits and saturates; costs speed there. None: where it is needed.
        optimized_model: where to write the graph as ONNX Runtime runs it, to see which kernels
            it chose.

    Raises:
        BadInput: the file is missing, corrupt, or not such a graph.
        EnvironmentLacks: ``cuda`` was asked for and cannot be used; or no onnxruntime.
    """

    def __init__(
        self,
        model: str | Path,
        preprocessing: Preprocessing | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        spinning: bool = True,
        exact: bool | None = None,
        optimized_model: Path | None = None,
    ) -> None:
        self._model = Path(model)
        self._preprocessing = preprocessing
        if device not in ("cpu", "cuda", "auto"):
            raise BadInput(f"Device {device!r} is unknown.", "Choose cpu, cuda or auto.")
        if threads is not None and threads < 1:
            raise BadInput(f"{threads} threads cannot work.", "Ask for 1 or more.")
        onnxruntime = _import_onnxruntime()
        quantized = _is_quantized(self._model)
        providers = ["CPUExecutionProvider"]
        if device == "cuda" or (device == "auto" and _cuda_usable(onnxruntime)):
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
            try:
                return onnxruntime.InferenceSession(
                    str(self._model),
                    options,
                    providers=providers,
                    disabled_optimizers=_HARMFUL_TO_QDQ if quantized else [],
                )
            except Exception as error:  # its classes derive from Exception alone
                raise BadInput(
                    f"{self._model} cannot be opened by ONNX Runtime {onnxruntime.__version__}: "
                    f"{_first_line(error)}",
                    "The file is damaged or uses operators this version lacks; compile the model "
                    "again, or update onnxruntime.",
                ) from error

        if exact is None:
            exact = _saturates()
        exact = exact and quantized
        self._session: Any = create(exact)
        on_gpu = "CUDAExecutionProvider" in self._session.get_providers()
        if device == "cuda" and not on_gpu:
            raise EnvironmentLacks(
                "ONNX Runtime could not start its CUDA provider.",
                "Install the CUDA and cuDNN libraries it was built for, or use --backend ort.",
            )
        self.backend = "onnxruntime-cuda" if on_gpu else "onnxruntime-cpu"
        self._read_signature()
        if exact and not self._runs():
            self._session = create(exact=False)

    def run(self, images: Images) -> FloatArray:
        """See :meth:`mimiq.runtime.session.Session.run`."""
        if self._session is None:
            raise BadInput("The session is closed.", "Open the bundle again.")
        batch = as_input(images, self.input_shape, self._preprocessing)
        if len(batch) == 0:
            return np.zeros((0, self.num_classes), np.float32)
        if self._fixed_batch is not None and len(batch) != self._fixed_batch:
            raise BadInput(
                f"{self._model} takes batches of {self._fixed_batch} images, not {len(batch)}.",
                "Export it with a dynamic batch.",
            )
        feeds = {self._input: batch.astype(self._dtype, copy=False)}
        try:
            (logits,) = self._session.run([self._output], feeds)
        except Exception as error:
            raise BadInput(
                f"{self._model} failed in ONNX Runtime at batch {len(batch)}: {_first_line(error)}",
                "Try a smaller batch; if it fails at 1, compile the model again.",
            ) from error
        if logits.shape != (len(batch), self.num_classes):
            raise BadInput(
                f"{self._model} gave an output of shape {logits.shape} for {len(batch)} images.",
                f"One row of {self.num_classes} logits an image is needed.",
            )
        return np.asarray(logits, np.float32)

    def close(self) -> None:
        """Free the session; a second call does nothing."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _runs(self) -> bool:
        """One empty image, for what fails only when run.

        The rewrite for exact sums breaks DequantizeLinear of per-channel weights that come without
        zero points and stay in floating point (the patch embedding's).
        """
        image = np.zeros((self._fixed_batch or 1, *self.input_shape), np.float32)
        try:
            self.run(image)
        except BadInput:
            return False
        return True

    def _read_signature(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = list(inputs[0].shape) if inputs else []
        square = len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3]
        fits = len(inputs) == 1 and square and isinstance(shape[2], int)
        classes = outputs[0].shape[-1] if len(outputs[0].shape) == 2 else None
        if not fits or not isinstance(classes, int) or inputs[0].type not in _FLOAT_TYPES:
            described = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
            raise BadInput(
                f"{self._model} is no image classifier of ours: inputs {described or 'none'}; "
                f"output {outputs[0].shape}.",
                "One input (B, 3, S, S) and one output (B, classes) are needed.",
            )
        self._input, self._output = inputs[0].name, outputs[0].name
        self._dtype = _FLOAT_TYPES[inputs[0].type]
        self._fixed_batch = shape[0] if isinstance(shape[0], int) else None
        self.input_shape: tuple[int, int, int] = (3, shape[2], shape[3])
        self.num_classes: int = classes


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentLacks(
            f"onnxruntime cannot be imported: {error}.",
            "Install it with: pip install onnxruntime-gpu (or onnxruntime).",
        ) from error
    return onnxruntime


def _saturates() -> bool:
    """Whether the u8·s8 kernel of this CPU saturates: x86-64 without VNNI (vpmaddubsw)."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and not {"avx_vnni", "avx512_vnni"} & set(instruction_sets())


def _default_threads() -> int:
    """0 lets ONNX Runtime take the physical cores; it does not see a container's share of them."""
    usable = usable_cores()
    return usable if usable < (os.cpu_count() or 1) else 0


def _is_quantized(model: Path) -> bool:
    """Whether the file holds a DequantizeLinear node; read without an ONNX library."""
    try:
        with (
            model.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return content.find(b"DequantizeLinear") >= 0
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        reason = error.strerror if isinstance(error, OSError) else "it is empty"
        raise BadInput(
            f"{model} cannot be read: {reason}.", "Give an ONNX file, or compile the model again."
        ) from error


def _cuda_usable(onnxruntime: Any) -> bool:
    """Asked before the provider is: it fails loudly on stderr where there is no driver."""
    built_in = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return built_in and cuda_driver_present()


def _require_cuda(onnxruntime: Any) -> None:
    if not cuda_driver_present():
        raise EnvironmentLacks(
            "No NVIDIA driver and GPU can be used on this host.",
            "Use --backend ort, or run on a host with an NVIDIA GPU.",
        )
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise EnvironmentLacks(
            f"ONNX Runtime {onnxruntime.__version__} was built without CUDA.",
            "Install it with: pip install onnxruntime-gpu",
        )
    if hasattr(onnxruntime, "preload_dlls"):
        # CUDA and cuDNN may live in the wheels that PyTorch brought; missing ones are printed.
        import contextlib
        import io

        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]

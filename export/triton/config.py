"""``config.pbtxt``: Triton's model configuration, written as text and read back by its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mimiq.errors import BadInput
from mimiq.runtime.serving.packed import Tensor

_TYPES = {"FP32": "TYPE_FP32", "UINT8": "TYPE_UINT8", "INT64": "TYPE_INT64", "BYTES": "TYPE_STRING"}


@dataclass(frozen=True)
class ModelConfig:
    """What is said of a packed model; the names follow Triton's ``model_config.proto``.

    Attributes:
        name: of the model: its folder.
        backend: ``onnxruntime``, ``tensorrt`` or ``openvino``.
        max_batch_size: images a batch at most, as the dynamic batcher makes them; 0 where the
            server makes none, and each request is run as it comes.
        inputs, outputs: without the batch.
        labelled: the output whose values are named by ``labels.txt``, or None.
        preferred_batch_sizes: what the dynamic batcher aims at, ascending.
        queue_delay_us: how long it may wait for them, in microseconds.
        instances: copies of the model on each device.
        kind: ``KIND_GPU``, ``KIND_CPU`` or ``KIND_AUTO``.
        warmup_batches: batch sizes run before the model counts as ready.
        accelerator: ``tensorrt`` (ONNX Runtime on a GPU), ``openvino`` (on a CPU), or None.
        accelerator_parameters: of the accelerator.
        parameters: free text, shown by the server's model configuration endpoint.
        filename: of the model's file, where it is not the backend's own.
    """

    name: str
    backend: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labelled: str | None
    preferred_batch_sizes: tuple[int, ...]
    queue_delay_us: int
    instances: int
    kind: str
    warmup_batches: tuple[int, ...]
    accelerator: str | None
    accelerator_parameters: Mapping[str, str]
    parameters: Mapping[str, str]
    filename: str | None = None

    @property
    def batched(self) -> bool:
        """Whether the server makes batches of requests; shapes are then written without."""
        return self.max_batch_size > 0


def config_text(config: ModelConfig) -> str:
    """The configuration in protobuf's text format, with the newest version served."""
    blocks = [
        f"name: {_quoted(config.name)}",
        f"backend: {_quoted(config.backend)}",
        f"max_batch_size: {config.max_batch_size}",
        *(_tensor("input", tensor, config.batched) for tensor in config.inputs),
        *(
            _tensor(
                "output",
                tensor,
                config.batched,
                "labels.txt" if tensor.name == config.labelled else None,
            )
            for tensor in config.outputs
        ),
        _block("instance_group", f"count: {config.instances}", f"kind: {config.kind}"),
        "version_policy { latest { num_versions: 1 } }",
        *(_warmup(batch, config.inputs, config.batched) for batch in config.warmup_batches),
    ]
    if config.batched:
        blocks.append(
            _block(
                "dynamic_batching",
                f"preferred_batch_size: {_numbers(config.preferred_batch_sizes)}",
                f"max_queue_delay_microseconds: {config.queue_delay_us}",
            )
        )
    if config.filename is not None:
        blocks.append(f"default_model_filename: {_quoted(config.filename)}")
    if config.accelerator is not None:
        blocks.append(_accelerator(config))
    for key, value in config.parameters.items():
        inner = f"key: {_quoted(key)} value {{ string_value: {_quoted(value)} }}"
        blocks.append(f"parameters {{ {inner} }}")
    return "\n".join(blocks) + "\n"


def check_config(text: str) -> bool:
    """Read the text back by Triton's own schema.

    Returns:
        Whether that was done; False where ``tritonclient`` (extra ``serve``) is not installed.

    Raises:
        BadInput: the schema refuses it.
    """
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        return False
    try:
        text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise BadInput(
            f"Triton's schema refuses the model's configuration: {error}.",
            "Use a name of letters, digits, '.', '_' and '-'; if it is one, report a defect.",
        ) from error
    return True


def _tensor(kind: str, tensor: Tensor, batched: bool, labels: str | None = None) -> str:
    shape = tensor.shape if batched else (-1, *tensor.shape)
    lines = [
        f"name: {_quoted(tensor.name)}",
        f"data_type: {_TYPES[tensor.datatype]}",
        f"dims: {_numbers(shape)}",
    ]
    if labels is not None:
        lines.append(f"label_filename: {_quoted(labels)}")
    return _block(kind, *lines)


def _warmup(batch: int, inputs: Sequence[Tensor], batched: bool) -> str:
    lines = [f'name: "batch {batch}"', f"batch_size: {batch if batched else 1}"]
    for tensor in inputs:
        shape = tensor.shape if batched else (batch, *tensor.shape)
        value = f"data_type: {_TYPES[tensor.datatype]} dims: {_numbers(shape)} random_data: true"
        lines.append(f"inputs {{ key: {_quoted(tensor.name)} value {{ {value} }} }}")
    return _block("model_warmup", *lines)


def _accelerator(config: ModelConfig) -> str:
    side = "gpu" if config.accelerator == "tensorrt" else "cpu"
    lines = [f"name: {_quoted(str(config.accelerator))}"]
    for key, value in config.accelerator_parameters.items():
        lines.append(f"parameters {{ key: {_quoted(key)} value: {_quoted(value)} }}")
    inner = _block(f"{side}_execution_accelerator", *lines)
    return _block("optimization", _block("execution_accelerators", inner))


def _block(name: str, *lines: str) -> str:
    body = "\n".join(lines).replace("\n", "\n  ")
    return f"{name} {{\n  {body}\n}}"


def _numbers(values: Sequence[int]) -> str:
    return f"[{', '.join(str(value) for value in values)}]"


def _quoted(text: str) -> str:
    """A string literal: every byte that is not plain ASCII as an octal escape."""
    plain = {ord("\\"): "\\\\", ord('"'): '\\"', ord("\n"): "\\n"}
    escaped = (
        plain.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}")
        for byte in text.encode("utf-8")
    )
    return f'"{"".join(escaped)}"'

"""From a torch network (simulated quantisation or plain) to a Q/DQ ONNX file."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.export import passes
from mimiq.export.graph import DOMAIN, FAKE_QUANTIZE, save
from mimiq.libraries import hushed
from mimiq.quantize.layers import freeze

OPSET = 21  # the first with INT4 and block-wise DequantizeLinear
INPUT, OUTPUT, BATCH = "images", "logits", "batch"


def export_onnx(
    module: nn.Module,
    image_shape: int | tuple[int, int, int],
    path: str | Path,
    *,
    output: str = OUTPUT,
    opset: int = OPSET,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``module`` as ONNX with explicit QuantizeLinear/DequantizeLinear.

    Input ``images`` float32 (batch, channels, height, width), normalised; output ``logits`` float32
    (batch, classes), or ``embedding`` float32 (batch, width); the batch is dynamic. The module is
    not changed.

    Args:
        image_shape: (channels, height, width); a number is the side of a square RGB image.
        output: the name of the output.

    Raises:
        UnsupportedModel: when the network holds something that has no form in the graph.
        BadInput: when the folder cannot be written to, or the model exceeds ONNX's 2 GB.
    """
    model = to_ir(module, image_shape, output=output, opset=opset)
    passes.run(model, passes.lowering(metadata or {}))
    return save(model, path)


def to_ir(
    module: nn.Module,
    image_shape: int | tuple[int, int, int],
    *,
    output: str = OUTPUT,
    opset: int = OPSET,
) -> ir.Model:
    """The network as torch's exporter sees it, each fake quantisation one custom node.

    The node ``mimiq::FakeQuantize`` has the operands and attributes of
    :func:`mimiq.quantize.fake_quant.fake_quantize`. It is not yet Q/DQ, which the exporter's own
    optimiser would fold into floating-point constants on the weights; the passes lower it.
    """
    if opset < OPSET:
        raise BadInput(f"Opset {opset} has no INT4.", f"Use opset {OPSET} or later.")
    frozen = freeze(copy.deepcopy(module)).eval()
    # Two images, since torch.export treats a batch of one as a constant.
    shape = (3, image_shape, image_shape) if isinstance(image_shape, int) else image_shape
    example = torch.zeros(2, *shape)
    batch = torch.export.Dim(BATCH, min=1, max=2**16)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                frozen,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[output],
                dynamic_shapes=({0: batch},),
                custom_translation_table={torch.ops.mimiq.fake_quantize.default: _translation()},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UnsupportedModel(
            f"torch cannot export {type(module).__name__} to ONNX: {reason}",
            "Choose a ViT or DeiT from timm, e.g. deit_s.",
        ) from error
    assert program is not None
    return program.model


def _translation() -> Callable[..., Any]:
    """The onnxscript function that stands for ``mimiq::fake_quantize`` in the exported graph."""
    import onnx
    from onnxscript import values

    schema = onnx.defs.OpSchema
    attributes = ("qmin", "qmax", "axis", "block_size", "ratio", "coarse", "below")
    operator = values.Op(
        values.Opset(DOMAIN, 1),
        FAKE_QUANTIZE,
        schema(
            FAKE_QUANTIZE,
            DOMAIN,
            1,
            inputs=[schema.FormalParameter("x", "T"), schema.FormalParameter("scale", "T")],
            outputs=[schema.FormalParameter("y", "T")],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=[
                schema.Attribute(name, schema.AttrType.INT, "", required=True)
                for name in attributes
            ],
        ),
    )

    # Defaults as the operator's: what is left at them does not reach here.
    def fake_quantize(
        x: Any,
        scale: Any,
        qmin: int,
        qmax: int,
        axis: int,
        block_size: int,
        ratio: int = 1,
        coarse: int = 0,
        below: int = 0,
    ) -> Any:
        values = (qmin, qmax, axis, block_size, ratio, coarse, below)
        return operator(x, scale, **dict(zip(attributes, values, strict=True)))

    return fake_quantize


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of torch's and onnxscript's progress and hints reaches the terminal."""
    with (
        hushed("torch.onnx", "torch.export", "onnxscript"),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield

"""The graphs that benchmarks/gpu.py measures: each model in each precision, made on any host."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mimiq.runtime.preprocessing import Preprocessing

# Variant → what it is. All are fp16 between their layers, as TensorRT builds them.
VARIANTS = {
    "fp16": "weights and activations in half",
    "int8": "W8A8, attention in int8",
    "int8-wide": "the same with weight scales in one piece, so that products write fp32",
    "w4": "INT4 weights in blocks, half activations",
    "w4a8": "W4A8, the 4-bit weights carried as int8",
    "w4a8-int4": "W4A8, the weights stored as INT4",
}
_CALIBRATION_IMAGES = 16


@dataclass(frozen=True)
class Prepared:
    """One model's graphs.

    Attributes:
        model: short name.
        untrained: random weights: good for latency, not for accuracy.
        graphs: variant → file; ``fp32`` and ``int8-fp32`` are the forms for ONNX Runtime.
        preprocessing: from image to input.
        width, depth, heads, patch, image, classes: the architecture, for the roofline.
    """

    model: str
    untrained: bool
    graphs: dict[str, str]
    preprocessing: dict[str, object]
    width: int
    depth: int
    heads: int
    patch: int
    image: int
    classes: int

    def file(self, folder: Path, variant: str) -> Path:
        return folder / self.graphs[variant]

    def pipeline(self) -> Preprocessing:
        return Preprocessing.from_json(dict(self.preprocessing))


def prepare(name: str, folder: Path, weights: Path | None) -> Prepared:
    """Export one model in every precision. Needs the extra ``compile``; calibrates on noise."""
    import torch

    from mimiq.config.precision import int4, int8, largest_block, weight_only
    from mimiq.export.forms import to_fp16
    from mimiq.export.torch_onnx import export_onnx
    from mimiq.models import load_model, quantizable_layers
    from mimiq.quantize.insert import RangeRecipe, quantize

    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(name, weights=weights, untrained=weights is None and name != "digits")
    size = model.preprocessing.image_size
    images = torch.randn(
        _CALIBRATION_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0)
    )
    recipe = RangeRecipe(migrate=False, refit=False, rounding="nearest")
    inputs = [
        layer.weight.shape[1]
        for layer in quantizable_layers(model.module).values()
        if isinstance(layer, torch.nn.Linear)
    ]
    block = largest_block(inputs)
    graphs: dict[str, str] = {}

    def put(variant: str, module: torch.nn.Module, keep: str = "", carrier: bool = True) -> None:
        source = export_onnx(module, size, folder / f"{name}-{keep or variant}.onnx")
        half = folder / f"{name}-{variant}.fp16.onnx"
        graphs[variant] = to_fp16(source, half, int8_carrier=carrier).name
        if keep:
            graphs[keep] = source.name
        else:
            source.unlink()

    put("fp16", model.module, keep="fp32")
    put("int8", quantize(model, int8(), images, recipe).module, keep="int8-fp32")
    wide = folder / f"{name}-int8-wide.fp16.onnx"
    graphs["int8-wide"] = to_fp16(folder / graphs["int8-fp32"], wide, split_scales=False).name
    put("w4", quantize(model, weight_only(4, block), images, recipe).module)
    four = quantize(model, int4(), images, recipe).module
    put("w4a8", four)
    put("w4a8-int4", four, carrier=False)
    network = model.module
    attention = model.family.attentions(network)[0]
    prepared = Prepared(
        model=name,
        untrained=model.untrained,
        graphs=graphs,
        preprocessing=model.preprocessing.to_json(),
        width=int(network.embed_dim),  # type: ignore[arg-type]
        depth=len(model.family.blocks(network)),
        heads=attention.num_heads,
        patch=int(network.patch_embed.patch_size[0]),  # type: ignore[union-attr,index]
        image=size,
        classes=model.num_classes,
    )
    (folder / f"{name}.json").write_text(json.dumps(asdict(prepared), indent=1))
    return prepared


def read_prepared(name: str, folder: Path) -> Prepared | None:
    """What an earlier run, perhaps on another host, left in the folder; None unless complete."""
    path = folder / f"{name}.json"
    found = Prepared(**json.loads(path.read_text())) if path.is_file() else None
    return found if found is not None and set(VARIANTS) <= set(found.graphs) else None

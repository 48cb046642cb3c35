"""Which activations few bits hurt: each group quantised alone, everything else in floating point.

Ranges come from random scenes, which need no synthesis; no weight is rounded or fitted. Labelled
images judge; they choose nothing.

    python benchmarks/groups.py --weights deit_tiny_patch16_224.safetensors --eval imagenet/val
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch
from judge import Judge
from torch import nn

from mimiq.calibrate.ranges import activation_quantizers
from mimiq.config.precision import FLOAT, LayerPrecision, PerChannel, Precision
from mimiq.models import LoadedModel, load_model
from mimiq.quantize.fake_quant import Quantizer
from mimiq.quantize.insert import RangeRecipe, spread_outliers, swap_layers
from mimiq.synthesis.scenes import scenes

# The end of a quantiser's module name; the classifier and the patch embedding stay as they are.
GROUPS = {
    "outputs of softmax": "attn.probs_quantizer",
    "outputs of GELU": "mlp.fc2.input_quantizer",
    "inputs of fc1": "mlp.fc1.input_quantizer",
    "inputs of proj": "attn.proj.input_quantizer",
    "inputs of qkv": "attn.qkv.input_quantizer",
    "values": "attn.v_quantizer",
    "keys": "attn.k_quantizer",
    "queries": "attn.q_quantizer",
    "all": "_quantizer",
}


def main() -> None:
    arguments = _arguments()
    model = load_model(arguments.model, weights=arguments.weights)
    judge = Judge.on_folder(model, arguments.eval, arguments.judges)
    rows: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for two_steps in (False, True):
        module = quantized(model, arguments, two_steps)
        points = {n: p for n, p in module.named_modules() if isinstance(p, Quantizer)}
        for group, end in GROUPS.items():
            _only(module, points, lambda name, end=end: name.endswith(end))
            found = judge.judge(module)
            rows[group]["two steps" if two_steps else "one step"] = found
            print(two_steps, group, found, flush=True)
    result = {
        **record.made_with(model),
        "bits": arguments.bits,
        "scenes": arguments.scenes,
        "judged_on": len(judge.images),
        "groups": rows,
    }
    record.write(arguments.output, f"groups_{model.name}", result, table(result))
    print(table(result))


def quantized(model: LoadedModel, arguments: argparse.Namespace, two_steps: bool) -> nn.Module:
    """The network with every activation of its blocks quantised, its weights as they were."""
    layer = LayerPrecision(None, PerChannel(), arguments.bits)
    ends = (("patch_embed.proj", FLOAT), ("head*", FLOAT))
    precision = Precision(layer, arguments.bits, ends)
    size = model.preprocessing.image_size
    pixels = scenes(arguments.scenes, size, seed=0)
    images = torch.from_numpy(model.preprocessing.normalize(pixels))
    module = copy.deepcopy(model.module)
    recipe = RangeRecipe(two_steps=two_steps)
    spread_outliers(model, module, precision, images, recipe)
    swap_layers(module, precision)
    activation_quantizers(
        model.family, module, precision, images, recipe.observer, two_steps=two_steps
    )
    return module.requires_grad_(False)


def _only(module: nn.Module, points: dict[str, Quantizer], wanted: Callable[[str], bool]) -> None:
    for name, point in points.items():
        module.set_submodule(name, point if wanted(name) else nn.Identity())


def table(result: dict[str, Any]) -> str:
    def cells(found: dict[str, float]) -> str:
        return f"{100 * found['error']:.1f} % | {100 * found['agreement']:.1f} %"

    head = (
        f"{result['model']['name']}, {result['bits']}-bit activations of one group at a time, "
        f"everything else in floating point; ranges from {result['scenes']} random scenes. Mean "
        "squared error of the logits over their variance, and how often the answer is that of full "
        f"precision, on {result['judged_on']} real images ({result['hardware']}, torch "
        f"{result['torch']})."
    )
    lines = [
        head,
        "",
        "| group | one step: error | same answer | two steps: error | same answer |",
        "|---|---|---|---|---|",
    ]
    for group, found in result["groups"].items():
        lines.append(f"| {group} | {cells(found['one step'])} | {cells(found['two steps'])} |")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--eval", type=Path, required=True, help="labelled images")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--scenes", type=int, default=64, help="calibration images")
    parser.add_argument("--judges", type=int, default=250, help="labelled images at most, about")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Every family by a small trained network: from the source's logits to INT8 and INT4 as they run.

Each network lies in ``benchmarks/networks`` as ``python -m mimiq.models.digits.train --variant NAME
--out DIR`` trains it; the first is the embedded one. It is loaded and compared with timm's own
forward, compiled on synthetic images to INT8 and to INT4 (W4A8), run by ONNX Runtime in its form
for CPUs on the digits held out, and built for TensorRT-RTX, whose engine is read for what it
computes in INT8. Speed is that of one thread, engines taking turns. Trained networks of timm's are
rows as well, judged on labelled images of theirs:

    python benchmarks/families.py [NAME …]
    python benchmarks/families.py --network deit_t=deit_t:deit_tiny.safetensors --eval imagenet/val

A network whose result exists is not measured again: give its name.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from accuracy_images import pooled
from accuracy_networks import Network, parse_networks
from record import made_with, write
from safetensors.torch import load_file
from torch import nn

from mimiq.cache import Cache
from mimiq.cli.terminal_progress import shown_progress
from mimiq.compiler import Compiled, compile_model
from mimiq.config.precision import from_bits
from mimiq.config.recipes import recipe_for
from mimiq.export.tensorrt.proof import Proof
from mimiq.models import LoadedModel, load_model
from mimiq.models.digits import NUM_CLASSES, create_digits, digits_heldout
from mimiq.models.digits.variants import CONFIG, VARIANT_WEIGHTS
from mimiq.models.names import EMBEDDED
from mimiq.progress import Progress
from mimiq.runtime.evaluation.datasets import InMemoryImages, LabelledImages
from mimiq.runtime.host import describe_software
from mimiq.runtime.latency.measure import Engine, measure
from mimiq.spec import EngineSpec, Job
from mimiq.stages.graphs import ExportReference

HERE = Path(__file__).parent
NETWORKS, RESULTS = HERE / "networks", HERE / "results"
PRECISIONS = {"int8": from_bits(8, 8), "int4": from_bits(4, 8)}
BATCHES = (1, 8)
# What each network is there for; a row without a folder has not been trained yet.
ROWS = {
    EMBEDDED: "ViT, DeiT",
    "deit_distilled": "DeiT, distilled: two heads",
    "registers": "ViT with registers, LayerScale, pooled",
    "qk_norm": "ViT with norms on queries and keys",
    "swiglu": "AIMv2: RMSNorm, SwiGLU",
    "post_norm": "ViT, norms behind attention and MLP",
    "parallel": "ViT, attention and MLP side by side",
    "hybrid": "ViT behind a convolutional stem",
    "cait": "CaiT: heads mixed, class token apart",
    "beit": "BEiT",
    "relpos": "ViT with relative positions",
    "eva": "EVA",
    "eva02": "EVA02: RoPE, SwiGLU, norms inside",
    "dinov3": "DINOv3: RoPE, registers",
    "swin": "Swin",
    "swin_v2": "Swin v2: cosine attention",
}


@dataclass(frozen=True)
class Entry:
    """A row.

    Attributes:
        what: it is there for.
        model: as it is compiled.
        source: timm's own network of the same weights.
        images: labelled, that it is judged on, and ``named`` in the report.
        recipe: of the compilation.
    """

    what: str
    model: LoadedModel
    source: nn.Module
    images: LabelledImages
    named: str
    recipe: str


def main() -> None:
    arguments = _arguments()
    recorded = arguments.results / "families.json"
    found = json.loads(recorded.read_text()) if recorded.is_file() else {}
    rows: dict[str, Any] = found.get("networks", {})
    todo: dict[str, Callable[[], Entry]] = {
        network.name: partial(_trained, network, arguments.eval)
        for network in parse_networks(arguments.network)
    }
    missing = [] if todo else [name for name in ROWS if name not in rows]
    todo |= {name: partial(_digits, name) for name in arguments.names or missing}
    with tempfile.TemporaryDirectory() as scratch:
        for name, entry in todo.items():
            cache = Cache(arguments.cache or Path(scratch) / "cache")
            rows[name] = run(name, entry(), Path(scratch), cache)
            ordered = {each: rows[each] for each in dict.fromkeys([*ROWS, *rows]) if each in rows}
            result = {"software": describe_software("timm", "onnxruntime-gpu"), "networks": ordered}
            write(arguments.results, "families", result, render(ordered))
    print(render(rows))


def run(name: str, entry: Entry, scratch: Path, cache: Cache) -> dict[str, Any]:
    """All of one network.

    Args:
        name: of its bundles.
        scratch: a folder for these.
    """
    progress, model = shown_progress(), entry.model
    compiled = {
        label: compile_model(_job(entry, label, scratch / f"{name}-{label}.mimiq"), cache, progress)
        for label in PRECISIONS
    }
    return {
        "is": entry.what,
        **made_with(model) | {"model": model.describe() | {"name": name}},
        "against_source": difference(entry),
        "linears": sum(isinstance(part, nn.Linear) for part in model.module.modules()),
        "attentions": len(model.family.attentions(model.module)),
        "turned_streams": len(model.family.streams(model.module)),
        "precisions": {label: _precision(each) for label, each in compiled.items()},
        "latency": _latency(model, compiled, cache, progress),
    }


def difference(entry: Entry) -> float:
    """The largest difference of a logit from the source library's on a batch of the images."""
    pixels, _ = next(iter(entry.images.batches(entry.model.preprocessing, 32)))
    images = torch.from_numpy(pixels)
    with torch.inference_mode():
        return float((entry.source(images) - entry.model.module(images)).abs().max())


def _digits(name: str) -> Entry:
    model = load_model(name if name == EMBEDDED else str(NETWORKS / name))
    images = InMemoryImages(*digits_heldout(), NUM_CLASSES)
    return Entry(ROWS[name], model, _source(name), images, "held-out digits", "tiny")


def _trained(network: Network, folders: list[str]) -> Entry:
    model = network.load()
    source: nn.Module = timm.create_model(model.architecture)
    source.load_state_dict(load_file(str(network.weights)))
    images = pooled(folders, model.num_classes)
    return Entry(model.architecture, model, source.eval(), images, "labelled images", "fast")


def _source(name: str) -> nn.Module:
    if name == EMBEDDED:
        return create_digits()
    config = json.loads((NETWORKS / name / CONFIG).read_text())
    network: nn.Module = timm.create_model(config["architecture"], **config["model_args"])
    weights = load_file(NETWORKS / name / VARIANT_WEIGHTS)
    network.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    return network.eval()


def _job(entry: Entry, label: str, out: Path) -> Job:
    precision = PRECISIONS[label]
    return Job(
        model=entry.model,
        precision=precision,
        recipe=recipe_for(entry.recipe, precision),
        out=out,
        evaluation=entry.images,
        evaluation_name=entry.named,
        batches=(),
        engine=EngineSpec("rtx", allow_fallback=True),
    )


def _precision(compiled: Compiled) -> dict[str, Any]:
    report: dict[str, Any] = compiled.bundle.report.to_json() if compiled.bundle.report else {}
    kept = {key: report[key] for key in ("size", "accuracy", "heldout", "seconds", "notes")}
    return kept | {"engine": None if compiled.engine is None else _engine(compiled.engine.proof)}


def _engine(proof: Proof) -> dict[str, Any]:
    summary = proof.summary
    return {
        "linears": dict(summary.linears()),
        "fused_attentions": dict(summary.fused_attentions()),
        "matmuls": dict(summary.matmuls()),
        "fallbacks": [str(fallback) for fallback in proof.fallbacks],
        "unproven": list(proof.unproven),
        "unfused": list(proof.unfused),
        "outlier_columns": dict(proof.outlier_columns),
    }


def _latency(
    model: LoadedModel, compiled: Mapping[str, Compiled], cache: Cache, progress: Progress
) -> list[dict[str, Any]]:
    reference = cache.run(ExportReference(model), progress)
    engines = {"fp32": Engine(reference, threads=1)}
    for label, each in compiled.items():
        engines[label] = Engine(each.bundle.path, "ort", threads=1)
    with progress.stage("latency") as stage:
        rows = measure(engines, BATCHES, budget_s=12, stage=stage)
    return [row.to_json() for row in rows]


def render(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, a line a network."""
    lines = [
        "# Families, each by a small network trained on digits",
        "",
        "`python benchmarks/families.py`. All networks are trained (`mimiq/models/digits/train.py`)"
        " and compiled on synthetic images; 359 digits held out. *Source*: the largest difference "
        "of a logit from timm's own forward. *Lost*: points of top-1 against full precision on the "
        "same images; *same*: how often the answer is full precision's; *error*: of the logits, "
        "as a share of their variance. *RTX*: what the TensorRT-RTX engine computes in INT8, "
        "Linears and attentions (W4A8 keeps INT4 weights and multiplies in INT8). *Speed*: ONNX "
        "Runtime on one CPU thread against fp32 in the same run, batch 1 / 8. Networks behind "
        "Swin v2, if any, were trained on ImageNet (`--network … --eval …`), and are compiled with "
        "recipe `fast`; *images* says on how many.",
        "",
        "| network | what it is | images | top-1 | source | precision | lost | same | error |"
        " RTX: Linears | attentions | speed |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        for label, found in row["precisions"].items():
            lines.append(" | ".join(["", *_cells(name, row, label, found), ""]).strip())
    return "\n".join(lines) + "\n"


def _cells(name: str, row: Mapping[str, Any], label: str, found: Mapping[str, Any]) -> list[str]:
    accuracy, engine = found["accuracy"], found["engine"]
    full, low = accuracy["reference"]["top1"], accuracy["accuracy"]["top1"]
    count = accuracy["accuracy"]["count"]
    same = 100 * accuracy["agreeing"] / count
    ratios = [each["speedup"] for each in row["latency"] if each["engine"] == label]
    first = label == next(iter(PRECISIONS))
    return [
        *((name, row["is"], str(count), f"{full:.1f} %") if first else ("", "", "", "")),
        f"{row['against_source']:.0e}" if first else "",
        "W8A8" if label == "int8" else "W4A8",
        f"{full - low:.1f}",
        f"{same:.1f} %",
        f"{100 * accuracy['logit_error']:.2f} %",
        _share(engine["linears"], row["linears"]) if engine else "not built",
        _share(engine["fused_attentions"], row["attentions"]) if engine else "",
        f"{' / '.join(f'{ratio:.1f}' for ratio in ratios)}×",
    ]


def _share(counts: Mapping[str, int], total: int) -> str:
    in_integers = sum(count for kind, count in counts.items() if kind.endswith("int8"))
    return f"{in_integers} of {total}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("names", nargs="*", help=f"of {', '.join(ROWS)}; all that are not measured yet")
    add("--network", action="append", default=[], metavar="NAME=MODEL:WEIGHTS")
    add("--eval", action="append", default=[], help="a folder of labelled images, for --network")
    add("--results", type=Path, default=RESULTS)
    add("--cache", type=Path, help="kept between runs")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in ROWS]
    if unknown:
        parser.error(f"no network is named {', '.join(unknown)}; choose of {', '.join(ROWS)}")
    return arguments


if __name__ == "__main__":
    main()

"""mimiq beside other quantisers, on the same network, images and runtimes.

Each tool quantises the same full-precision graph as its own guide has it, once calibrated on
mimiq's synthetic images and, where it works without any, once on its own default. Judged are
labelled images that nothing is calibrated on, each graph as ONNX Runtime executes it; the speed of
one CPU thread, engines taking turns; and what an engine of TensorRT-RTX computes in INT8.

    mimiq synthesize deit_t --weights W -o set
    mimiq-compile deit_t --weights W --int8 -o w8a8.mimiq       # and --int4, --int4 --weight-only
    python benchmarks/others.py --model deit_t --weights W --calibration set --eval imagenet-val \\
        --bundle w8a8.mimiq --bundle w4a8.mimiq --bundle w4.mimiq --tools PYTHON

``--tools`` names the Python of an environment with nncf, nvidia-modelopt[onnx] and amd-quark.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
from accuracy_images import pooled

from mimiq.calibrate import CalibrationSet
from mimiq.cli.terminal_progress import shown_progress
from mimiq.errors import MimiqError
from mimiq.export import export_onnx
from mimiq.export.tensorrt.build import BuildOptions, build_engine
from mimiq.export.tensorrt.plan import read_plan
from mimiq.models import LoadedModel, load_model
from mimiq.runtime.bundle import CPU_MODEL, MODEL, Bundle
from mimiq.runtime.evaluation.accuracy import compare
from mimiq.runtime.evaluation.comparison import Comparison
from mimiq.runtime.evaluation.datasets import LabelledImages
from mimiq.runtime.host import describe_software
from mimiq.runtime.latency.measure import Engine, measure
from mimiq.runtime.onnxruntime.graph import integer_kernels
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.tensorrt.products import RTX

MAKERS = str(Path(__file__).with_name("others_makers.py"))
FP32 = "full precision"
BATCHES = (1, 8)


@dataclass(frozen=True)
class Entrant:
    """A row: a tool, what it was calibrated on, and the graphs that it made.

    Attributes:
        tool: its name and version.
        precision: of weights and activations.
        images: what it was calibrated on.
        graph: what ONNX Runtime runs.
        engine_graph: what TensorRT-RTX is given.
        engine: what the measuring process opens.
    """

    tool: str
    precision: str
    images: str
    graph: Path
    engine_graph: Path
    engine: Engine

    @property
    def name(self) -> str:
        return f"{self.tool}, {self.precision}, {self.images}"


# By the maker: title, distribution, precision, whether it has a default without images.
TOOLS = {
    "onnxruntime": ("ONNX Runtime static", "onnxruntime", "W8A8", False),
    "nncf": ("NNCF", "nncf", "W8A8", False),
    "quark": ("Quark", "amd-quark", "W8A8", False),
    "modelopt-int8": ("Model Optimizer", "nvidia-modelopt", "W8A8", True),
    "modelopt-int4": ("Model Optimizer", "nvidia-modelopt", "W4A16", False),
}


def main() -> None:
    arguments = _arguments()
    try:
        model = load_model(arguments.model, weights=arguments.weights)
        with tempfile.TemporaryDirectory() as scratch:
            result = run(model, arguments, Path(scratch))
    except MimiqError as error:
        sys.exit(str(error))
    record.write(arguments.output, f"others_{arguments.model}", result, table(result))
    print(table(result))


def run(model: LoadedModel, arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Make every graph, judge it, time it, and build its engine."""
    fp32 = scratch / "fp32.onnx"
    export_onnx(model.module, model.preprocessing.input_shape, fp32, output=model.output)
    images = scratch / "images.npy"
    pixels = CalibrationSet.open(arguments.calibration).images()[: arguments.images]
    np.save(images, model.preprocessing.normalize(pixels))
    entrants = [_ours(Bundle(path)) for path in arguments.bundle]
    for maker in arguments.makers:
        entrants += _theirs(maker, fp32, images, scratch, arguments.tools)
    dataset = pooled(arguments.eval, model.num_classes)
    accuracy = _accuracy(model, fp32, entrants, dataset)
    speed = _speed(fp32, entrants, arguments.budget)
    rows = [
        {
            "tool": entrant.tool,
            "precision": entrant.precision,
            "images": entrant.images,
            "bytes": entrant.graph.stat().st_size,
            "accuracy": accuracy[entrant.name].to_json(),
            "speed": speed[entrant.name],
            "engine": _engine(entrant.engine_graph),
        }
        for entrant in entrants
    ]
    return {
        **record.made_with(model),
        "integer_kernels": integer_kernels().name,
        "software": describe_software("mimiq", "onnxruntime", "onnxruntime-gpu", "tensorrt-rtx"),
        "calibration_images": len(pixels),
        "judged_on": len(dataset),
        "rows": rows,
    }


def _ours(bundle: Bundle) -> Entrant:
    form = bundle.file(CPU_MODEL if bundle.has(CPU_MODEL) else MODEL)
    engine = Engine(bundle.path, "ort", threads=1)
    label = bundle.precision_label.upper()
    return Entrant("mimiq", label, "its own", form, bundle.model_path, engine)


def _theirs(maker: str, fp32: Path, images: Path, scratch: Path, python: str) -> list[Entrant]:
    title, distribution, precision, without = TOOLS[maker]
    python = sys.executable if maker == "onnxruntime" else python  # the version that judges all
    tool = f"{title} {_version(python, distribution)}"
    found = []
    kinds = {"mimiq's": str(images)} | ({"its own, random": "none"} if without else {})
    for kind, source in kinds.items():
        out = scratch / f"{maker}-{len(found)}.onnx"
        _make(python, maker, fp32, source, out)
        engine_graph = out
        if maker == "onnxruntime":
            engine_graph = scratch / "symmetric.onnx"
            _make(python, f"{maker}-symmetric", fp32, source, engine_graph)
        found.append(Entrant(tool, precision, kind, out, engine_graph, Engine(out, "ort", 1)))
    return found


def _make(python: str, maker: str, fp32: Path, images: str, out: Path) -> None:
    print(f"{maker}, images {images}", file=sys.stderr, flush=True)
    command = [python, MAKERS, maker, str(fp32), images, str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _version(python: str, distribution: str) -> str:
    for name in (distribution, f"{distribution}-gpu"):
        code = f"import importlib.metadata as m; print(m.version({name!r}))"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    raise SystemExit(f"{python} has no {distribution}.")


def _accuracy(
    model: LoadedModel, fp32: Path, entrants: list[Entrant], dataset: LabelledImages
) -> dict[str, Comparison]:
    found = {}
    with OnnxRuntimeSession(fp32) as reference:
        for entrant in entrants:
            print(f"accuracy of {entrant.name}", file=sys.stderr, flush=True)
            with OnnxRuntimeSession(entrant.graph) as session:
                given = (session.run, reference.run, dataset, model.preprocessing)
                found[entrant.name] = compare(*given)
    return found


def _speed(fp32: Path, entrants: list[Entrant], budget: float) -> dict[str, list[float]]:
    """Against full precision by batch, on one thread."""
    engines = {FP32: Engine(fp32, "ort", 1)} | {each.name: each.engine for each in entrants}
    with shown_progress().stage("latency") as stage:
        rows = measure(engines, BATCHES, budget_s=budget, stage=stage)
    return {name: [row.speedup for row in rows if row.engine == name] for name in engines}


def _engine(graph: Path) -> dict[str, Any]:
    """What TensorRT-RTX computes how, or why it takes no such graph."""
    try:
        summary = read_plan(build_engine(graph, RTX, BuildOptions()).plan)
    except MimiqError as error:
        return {"refused": error.problem}
    return {
        "linears": dict(summary.linears()),
        "attentions": dict(summary.fused_attentions()),
        "matmuls": dict(summary.matmuls()),
    }


def table(result: Mapping[str, Any]) -> str:
    """Markdown, a line a tool and calibration."""
    lines = [
        f"# {result['model']['name']}: mimiq beside other quantisers",
        "",
        f"{result['judged_on']} labelled images that nothing is calibrated on, each graph as ONNX "
        "Runtime executes it. *Calibrated on*: synthetic images of mimiq "
        f"({result['calibration_images']}), or what the tool takes when given none. *Speed*: ONNX "
        f"Runtime on one thread of a CPU ({result['hardware']}, "
        f"{result['integer_kernels']}) against full precision in the same run, batch 1 / 8. *RTX*: "
        "Linears that TensorRT-RTX multiplies in INT8, and attentions that it fuses in INT8.",
        "",
        "| tool | precision | calibrated on | points lost [95 %] | same answer | logit error | MB |"
        " speed | RTX: Linears | attentions |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        found = Comparison.from_json(row["accuracy"])
        low, high = found.drop_interval
        cells = [
            row["tool"],
            row["precision"],
            row["images"],
            f"{found.drop:.1f} [{low:.1f}, {high:.1f}]",
            f"{100 * found.agreement:.1f} %",
            f"{100 * found.logit_error:.1f} %",
            f"{row['bytes'] / 1e6:.1f}",
            " / ".join(f"{ratio:.1f}" for ratio in row["speed"]) + "×",
            *_engine_cells(row["engine"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    refused = {row["tool"]: row["engine"].get("refused") for row in result["rows"]}
    lines += ["", *(f"- {tool}: {reason}" for tool, reason in refused.items() if reason)]
    return "\n".join(lines) + "\n"


def _engine_cells(engine: Mapping[str, Any]) -> tuple[str, str]:
    if "refused" in engine:
        return "refused", "–"

    def share(counts: Mapping[str, int]) -> str:
        integers = sum(n for label, n in counts.items() if label.endswith("int8"))
        return f"{integers} of {sum(counts.values())}"

    return share(engine["linears"]), str(engine["attentions"].get("int8", 0))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add: Callable[..., Any] = parser.add_argument
    add("--model", default="deit_t")
    add("--weights", type=Path, required=True)
    add("--calibration", type=Path, required=True, help="folder of synthetic images")
    add("--images", type=int, default=96, help="of these, for the other tools")
    add("--eval", action="append", required=True, help="a folder; may be repeated")
    add("--bundle", type=Path, action="append", default=[])
    add("--makers", nargs="*", choices=TOOLS, default=[*TOOLS])
    add("--tools", metavar="PYTHON", default=sys.executable)
    add("--budget", type=float, default=60, help="seconds of timing for each batch size")
    add("--output", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()

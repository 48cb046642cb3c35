"""Everything that only a GPU can tell, in one command.

1. Whether TensorRT-RTX and TensorRT run on this GPU; if not, their exact words, also for engines
   compiled for each compute capability alone.
2. Device time at batch 1, 8, 32, 128 of FP16, INT8, INT4-weight-only and W4A8 engines of DeiT-T, S
   and B: CUDA events, CUDA graphs, all engines taking turns in one run, with the ratio to FP16 pair
   by pair; beside PyTorch in fp16 (eager, and compiled with CUDA graphs), ONNX Runtime's CUDA
   provider, and the roofline from measured ceilings.
3. Accuracy of the INT8 engine on labelled images, and its agreement with ONNX Runtime.

    python benchmarks/gpu.py --weights deit_tiny_patch16_224.safetensors --images imagenet-sample
    python benchmarks/gpu.py --dry-run        # on any host: every path, tiny, nothing of a GPU

Graphs may be prepared on another host, which has the extra ``compile``: ``--prepare-only --graphs
DIR`` there, ``--graphs DIR`` here. Results go to benchmarks/results/gpu-NAME.json and .md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cpu_tables import numbers
from gpu_engines import attempts, open_engine, prove_engine
from gpu_graphs import VARIANTS, Prepared, prepare, read_prepared
from gpu_peers import ceilings, ort_runner, torch_runner
from gpu_report import markdown, operations, roofline_ms

from mimiq.errors import MimiqError
from mimiq.export.tensorrt.build import BuildOptions
from mimiq.export.tensorrt.proof import Proof
from mimiq.export.tensorrt.verdict import verdict
from mimiq.files import write_whole
from mimiq.runtime.evaluation.accuracy import compare
from mimiq.runtime.evaluation.labelled_folders import open_dataset
from mimiq.runtime.gpus import gpu_state
from mimiq.runtime.host import cuda_driver_present, describe_hardware, describe_software
from mimiq.runtime.latency.measure import LatencyRow, Runner, interleave
from mimiq.runtime.latency.measure import summarize as summarize_rounds
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.tensorrt.products import PRODUCTS, Product
from mimiq.runtime.tensorrt.session import TensorRTSession
from mimiq.runtime.tensorrt.timing import device_runner

SOFTWARE = (
    "mimiq",
    "torch",
    "timm",
    "onnxruntime-gpu",
    "onnxruntime",
    "tensorrt-rtx-cu13",
    "tensorrt",
)


def main() -> None:
    arguments = _arguments()
    dry = arguments.dry_run
    device = "cuda" if cuda_driver_present() and not dry else "cpu"
    if device == "cpu" and not (dry or arguments.prepare_only):
        sys.exit("No NVIDIA driver and GPU can be used on this host.\n  Try --dry-run.")
    graphs: Path = arguments.graphs
    models = [
        read_prepared(name, graphs) or prepare(name, graphs, _weights(name, arguments.weights))
        for name in arguments.models
    ]
    if arguments.prepare_only:
        return
    result: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["benchmarks/gpu.py", *(Path(part).name for part in sys.argv[1:])]),
        "dry_run": dry,
        "device": _device(device),
        "software": describe_software(*SOFTWARE),
        "ceilings": ceilings(device, 512 if dry else 8192),
        "products": {},
        "models": [],
        "accuracy": None,
    }
    with tempfile.TemporaryDirectory() as folder:
        working: list[Product] = []
        for product in PRODUCTS:
            entry = result["products"][product.title] = attempts(
                product, models[0].file(graphs, "fp16"), Path(folder)
            )
            if entry["refusal"] is None:
                working.append(product)
            print(f"{product.title}: {entry['refusal'] or 'runs'}", flush=True)
        for model in models:
            entry = _measure(
                model, graphs, working, device, arguments, result["ceilings"], Path(folder)
            )
            result["models"].append(entry)
            _write(arguments.out, result)  # what is measured is kept if a later model fails
        result["accuracy"] = _accuracy(models, graphs, working, arguments, Path(folder))
    result["state after"] = gpu_state()
    print(f"written: {_write(arguments.out, result)}")


def _measure(
    model: Prepared,
    graphs: Path,
    working: list[Product],
    device: str,
    arguments: argparse.Namespace,
    measured: dict[str, float],
    folder: Path,
) -> dict[str, Any]:
    """All engines and peers of one model, batch by batch, taking turns."""
    entry: dict[str, Any] = {
        "model": model.model,
        "untrained": model.untrained,
        "gflop": operations(model) / 1e9,
        "engines": {},
        "rows": [],
        "state": [],
        "roofline_ms": {
            variant: {str(b): roofline_ms(model, variant, b, measured) for b in arguments.batches}
            for variant in VARIANTS
        },
    }
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        proofs: dict[str, Proof] = {}
        measured_rows: dict[str, list[LatencyRow]] = {}
        batches = arguments.batches
        options = BuildOptions(batches=(1, min(8, max(batches)), max(batches)), allow_fallback=True)
        for product in working or PRODUCTS[:1]:
            for variant in VARIANTS:
                name = variant if product.name == "rtx" else f"{variant} (TensorRT)"
                engine, plan, proof = prove_engine(
                    product, model.file(graphs, variant), options, folder
                )
                entry["engines"][name] = engine
                if proof is not None:
                    proofs[name] = proof
                if plan is None or product not in working:
                    continue
                session = stack.enter_context(
                    TensorRTSession(plan, product.load(), product, runtime_cache=False)
                )
                runners[name] = device_runner(session)
                if variant in ("fp16", "int8"):
                    runners[f"{name}, no graph"] = device_runner(session, cuda_graphs=False)
                    runners[f"{name}, copies"] = device_runner(session, copies=True)
        runners["PyTorch eager"] = torch_runner(model.model, device, compiled=False)
        if arguments.compile:
            runners["PyTorch compiled"] = torch_runner(model.model, device, compiled=True)
        for variant in ("fp32", "fp16", "int8-fp32"):
            if device == "cpu" and variant == "fp16":
                continue
            name = f"ONNX Runtime {variant.replace('-fp32', '')}"
            try:
                runners[name] = ort_runner(model.file(graphs, variant), device)
            except MimiqError as error:
                entry["engines"][name] = {"error": str(error)}
        entry["reference"] = next(iter(runners))
        for batch in batches:
            print(f"{model.model}, batch {batch}: {len(runners)} contenders", flush=True)
            rounds = interleave(runners, batch, arguments.budget)
            entry["state"].append(gpu_state())
            for name, own in rounds.items():
                row = summarize_rounds(
                    own, rounds[entry["reference"]], engine=name, backend=device, batch=batch
                )
                entry["rows"].append(row.to_json())
                measured_rows.setdefault(name, []).append(row)
        entry["verdicts"] = {
            name: verdict(
                rows,
                _gpu_name(),
                proofs[name],
                proofs.get(entry["reference"]),
                entry["reference"],
            )
            for name, rows in measured_rows.items()
            if name in proofs and name != entry["reference"]
        }
    return entry


def _accuracy(
    models: list[Prepared],
    graphs: Path,
    working: list[Product],
    arguments: argparse.Namespace,
    folder: Path,
) -> dict[str, Any] | None:
    """INT8 engines against ONNX Runtime's fp32 on labelled images, and against its int8."""
    trained = next((model for model in models if not model.untrained), None)
    if arguments.images is None or trained is None:
        return None
    pipeline = trained.pipeline()
    images = open_dataset(arguments.images, trained.classes, arguments.limit)
    found: dict[str, Any] = {}
    options = BuildOptions(batches=(1, 8, 32))
    with ExitStack() as stack:
        reference = stack.enter_context(OnnxRuntimeSession(trained.file(graphs, "fp32")))
        int8 = stack.enter_context(OnnxRuntimeSession(trained.file(graphs, "int8-fp32")))
        pairs: dict[str, tuple[Any, Any]] = {"ONNX Runtime int8 against fp32": (int8, reference)}
        for product in working:
            plan = folder / f"accuracy-{product.name}.plan"
            engine = stack.enter_context(
                open_engine(product, trained.file(graphs, "int8"), options, plan)
            )
            pairs[f"{product.title} int8 against fp32"] = (engine, reference)
            pairs[f"{product.title} int8 against ONNX Runtime int8"] = (engine, int8)
        for name, (ours, theirs) in pairs.items():
            compared = compare(ours, theirs, images, pipeline, batch_size=32)
            found[f"{trained.model}: {name}"] = {
                "top1": compared.accuracy.top1,
                "reference top1": compared.reference.top1,
                "agreement": compared.agreement,
                "images": compared.count,
            }
    return found


def _device(device: str) -> dict[str, Any]:
    hardware = describe_hardware()
    if device == "cuda":
        gpu = hardware["gpus"][0] if hardware["gpus"] else {"name": "unknown GPU"}
        return {**gpu, "state before": gpu_state(), "cpu": hardware["cpu"]}
    return {"name": f"CPU {hardware['cpu']}", "cores": hardware["cores"]}


def _gpu_name() -> str:
    gpus = describe_hardware()["gpus"]
    return str(gpus[0]["name"]) if gpus else "this host"


def _weights(name: str, weights: Path | None) -> Path | None:
    return weights if name == "deit_t" else None


def _write(out: Path, result: dict[str, Any]) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", str(result["device"]["name"]).lower()).strip("-")
    prefix = "dry-run-" if result["dry_run"] else ""
    path = out / f"gpu-{prefix}{slug}.json"
    for target, text in (
        (path, json.dumps(result, indent=1, default=asdict) + "\n"),
        (path.with_suffix(".md"), markdown(result)),
    ):
        write_whole(target, text)
    return path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=lambda text: text.split(","))
    parser.add_argument("--batches", type=numbers)
    parser.add_argument("--budget", type=float, help="seconds a batch size, warm-up apart")
    parser.add_argument("--weights", type=Path, help="trained weights of deit_t, for accuracy")
    parser.add_argument("--images", type=Path, help="labelled images, for accuracy")
    parser.add_argument("--limit", type=int, help="use so many of them")
    parser.add_argument("--graphs", type=Path, help="where graphs are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--prepare-only", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny settings")
    arguments = parser.parse_args()
    dry = arguments.dry_run
    arguments.models = arguments.models or (["digits"] if dry else ["deit_t", "deit_s", "deit_b"])
    arguments.batches = arguments.batches or ((1, 2) if dry else (1, 8, 32, 128))
    arguments.budget = arguments.budget or (0.5 if dry else 8.0)
    arguments.graphs = arguments.graphs or Path(tempfile.gettempdir()) / "mimiq-gpu-graphs"
    return arguments


if __name__ == "__main__":
    main()

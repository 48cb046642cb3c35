"""What low precision gains on a CPU: our forms, fp32, and what peers make of the same network.

Engines: ONNX Runtime fp32; ONNX Runtime's own static quantisation (s8s8 and u8s8 Q/DQ, min–max on
the same synthetic images); with ``--openvino PYTHON``, OpenVINO in fp32 and in the precision it
chooses itself (bfloat16 where the CPU has it), and NNCF's INT8; and the bundles given, on ONNX
Runtime and, where it is installed here, on OpenVINO, as ``open_bundle`` opens them. Each runs in a
process of its own; they take turns burst by burst, and a ratio is the median over rounds of the
ratio within a round (``mimiq.runtime.latency.measure``). Top-1 is measured on the same images for
all.

    mimiq-compile deit_t --int8 --weights W -o w8a8.mimiq      # and --int4, --int4 --weight-only
    mimiq synthesize deit_t --weights W -o images
    python benchmarks/cpu_serving.py --weights W --eval imagenet-sample --calibration images \\
        --bundle w8a8.mimiq --bundle w4a8.mimiq --bundle w4.mimiq
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cpu_rivals import PEERS, add_arguments, make_rivals
from cpu_serving_peers import OPENVINO, OPENVINO_FP32, Plain
from cpu_tables import counted, form_or_plain, host_line, measured_on, numbers

from mimiq.cli.terminal_progress import shown_progress
from mimiq.errors import MimiqError
from mimiq.runtime.bundle import CPU_MODEL, OPENVINO_MODEL, Bundle
from mimiq.runtime.evaluation.accuracy import compare
from mimiq.runtime.evaluation.comparison import Comparison
from mimiq.runtime.evaluation.datasets import LabelledImages
from mimiq.runtime.evaluation.labelled_folders import open_dataset
from mimiq.runtime.latency.measure import Engine, LatencyRow, measure
from mimiq.runtime.opening import open_bundle
from mimiq.runtime.openvino.backend import OPENVINO as OPENVINO_BACKEND
from mimiq.runtime.preprocessing import FloatArray, Preprocessing

RESULTS = Path(__file__).with_name("results")
FP32 = "ONNX Runtime fp32"
_PLAIN = (FP32, "OpenVINO fp32", "OpenVINO, its own choice")  # not quantised


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            result = run(arguments, Path(scratch))
        except MimiqError as error:
            sys.exit(str(error))
    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(result))
    print(table(result))


def run(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Make what is missing, measure, and judge."""
    rivals = make_rivals(arguments, scratch)
    model, fp32 = rivals.model, rivals.fp32

    def peer(path: Path, python: str = sys.executable, runtime: str = "onnxruntime") -> Any:
        return lambda threads: Engine(path, runtime, threads, (python, PEERS))

    engines: dict[str, Callable[[int], Engine]] = {FP32: peer(fp32)}
    sizes = {FP32: fp32.stat().st_size}
    for name, path in rivals.static.items():
        engines[f"ONNX Runtime static {name}"] = peer(path)
        sizes[f"ONNX Runtime static {name}"] = path.stat().st_size
    bundles = {f"mimiq {Bundle(path).precision_label}": Bundle(path) for path in arguments.bundle}
    for name, bundle in bundles.items():
        engines[name] = lambda threads, path=bundle.path: Engine(path, "ort", threads)
        sizes[name] = bundle.file(form_or_plain(bundle, CPU_MODEL)).stat().st_size
    if OPENVINO_BACKEND.why_not() is None:
        for name, bundle in list(bundles.items()):
            ours = f"{name}, OpenVINO"
            bundles[ours] = bundle
            engines[ours] = lambda threads, path=bundle.path: Engine(path, "openvino", threads)
            sizes[ours] = bundle.file(form_or_plain(bundle, OPENVINO_MODEL)).stat().st_size
    if rivals.nncf is not None:
        python = arguments.openvino
        engines["OpenVINO fp32"] = peer(fp32, python, OPENVINO_FP32)
        engines["OpenVINO, its own choice"] = peer(fp32, python, OPENVINO)
        engines["OpenVINO NNCF int8"] = peer(rivals.nncf, python, OPENVINO)
        sizes |= dict.fromkeys(("OpenVINO fp32", "OpenVINO, its own choice"), sizes[FP32])
        sizes["OpenVINO NNCF int8"] = rivals.nncf.with_suffix(".bin").stat().st_size
    result: dict[str, Any] = {
        **measured_on(model.describe(), "openvino", "numpy"),
        "bytes": sizes,
        "load_before": os.getloadavg(),
        "latency": {},
    }
    for threads in arguments.threads:
        with shown_progress().stage(f"{threads} threads") as stage:
            rows = measure(
                {name: make(threads) for name, make in engines.items()},
                arguments.batches,
                budget_s=arguments.budget,
                stage=stage,
            )
        result["latency"][str(threads)] = [row.to_json() for row in rows]
    result["load_after"] = os.getloadavg()
    if arguments.eval is not None:
        dataset = open_dataset(arguments.eval, model.num_classes)
        found = accuracies(engines, bundles, dataset, model.preprocessing, scratch)
        result["accuracy"] = {name: comparison.to_json() for name, comparison in found.items()}
    result["judgement"] = judge(result, list(bundles))
    return result


def accuracies(
    engines: dict[str, Callable[[int], Engine]],
    bundles: dict[str, Bundle],
    dataset: LabelledImages,
    preprocessing: Preprocessing,
    scratch: Path,
) -> dict[str, Comparison]:
    """Each engine against fp32, one after the other."""
    found = {}
    with Plain(engines[FP32](1).path, "onnxruntime", None) as reference:
        for name, make in engines.items():
            engine = make(1)
            print(f"accuracy of {name}", file=sys.stderr)
            if name in bundles:
                with open_bundle(bundles[name], engine.backend) as session:
                    found[name] = compare(session, reference.run, dataset, preprocessing)
            elif engine.backend.startswith("openvino"):
                assert engine.command is not None
                found[name] = _elsewhere(engine, reference, dataset, preprocessing, scratch)
            else:
                with Plain(engine.path, "onnxruntime", None) as session:
                    found[name] = compare(session.run, reference.run, dataset, preprocessing)
    return found


def judge(result: dict[str, Any], ours: list[str]) -> list[str]:
    """Each precision in its faster runtime against the fastest peer of all: sentences.

    Weight-only forms compute in floating point, so that peers without quantisation are what they
    are held against.
    """
    precisions = list(dict.fromkeys(name.partition(",")[0] for name in ours))
    found = []
    for threads, entries in result["latency"].items():
        rows = [LatencyRow.from_json(entry) for entry in entries]
        for batch in dict.fromkeys(row.batch for row in rows):
            here = {row.engine: row for row in rows if row.batch == batch}
            peers = [row for name, row in here.items() if name not in ours]
            plain = [row for row in peers if row.engine in _PLAIN]
            for precision in precisions:
                own = [here[name] for name in ours if name.partition(",")[0] == precision]
                mine = max(own, key=lambda row: row.speedup)
                best = max(plain if "a16" in precision else peers, key=lambda row: row.speedup)
                ratio = mine.speedup / best.speedup
                verb = "beats" if ratio > 1.02 else "loses to" if ratio < 0.98 else "ties with"
                found.append(
                    f"{counted(int(threads), 'thread')}, batch {batch}: {mine.engine} {verb} "
                    f"{best.engine}, {ratio:.2f}×."
                )
    return found


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    accuracy = result.get("accuracy", {})
    before, after = (result[key][0] for key in ("load_before", "load_after"))
    lines = [
        f"# {result['model']['name']} on a CPU",
        "",
        f"{host_line(result)}.",
        "",
        f"Load average before {before:.1f}, after {after:.1f}"
        + (
            ": other work shared the cores, so take the ratios, not the milliseconds."
            if before > 0.5
            else "."
        ),
        "",
        "Speed is against ONNX Runtime fp32, pair by pair in one run, with its quartiles.",
    ]
    for threads, entries in result["latency"].items():
        rows = [LatencyRow.from_json(entry) for entry in entries]
        batches = list(dict.fromkeys(row.batch for row in rows))
        heads = "".join(f" ms at {b} | speed at {b} |" for b in batches)
        lines += [
            "",
            f"## {counted(int(threads), 'thread')}",
            "",
            f"| engine | MB |{heads} top-1 lost [95 %] | as fp32 % | logit error % |",
            "|---|---|" + "---|---|" * len(batches) + "---|---|---|",
        ]
        for name in dict.fromkeys(row.engine for row in rows):
            cells = ""
            for row in (row for row in rows if row.engine == name):
                low, high = row.speedup_quartiles
                cells += f" {row.p50_ms:.1f} | {row.speedup:.2f} [{low:.2f}, {high:.2f}] |"
            lost = same = error = "–"
            if name in accuracy:
                found = Comparison.from_json(accuracy[name])
                low, high = found.drop_interval
                lost = f"{found.drop:.1f} [{low:.1f}, {high:.1f}]"
                same = f"{100 * found.agreement:.1f}"
                error = f"{100 * found.logit_error:.2f}"
            size = result["bytes"][name] / 1e6
            lines.append(f"| {name} | {size:.2f} |{cells} {lost} | {same} | {error} |")
    lines += ["", *(f"- {sentence}" for sentence in result["judgement"])]
    return "\n".join(lines) + "\n"


def _elsewhere(
    engine: Engine,
    reference: Plain,
    dataset: LabelledImages,
    preprocessing: Preprocessing,
    scratch: Path,
) -> Comparison:
    """An engine of another environment: its logits of all images, made there."""
    given, out = scratch / "eval.npy", scratch / "logits.npy"
    seen: list[FloatArray] = []

    def collect(images: FloatArray) -> FloatArray:
        seen.append(images)
        return reference.run(images)

    compare(collect, reference.run, dataset, preprocessing)
    np.save(given, np.concatenate(seen))
    assert engine.command is not None
    command = [*engine.command, "--runtime", engine.backend]
    subprocess.run([*command, "--logits", str(engine.path), str(given), str(out)], check=True)
    rest = iter(np.split(np.load(out), np.cumsum([len(part) for part in seen])[:-1]))
    return compare(lambda _: next(rest), reference.run, dataset, preprocessing)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--eval", type=Path, help="labelled images")
    parser.add_argument("--batches", type=numbers, default=(1, 8, 32))
    parser.add_argument("--threads", type=numbers, default=(2,), help="e.g. 1,2")
    parser.add_argument("--budget", type=float, default=40, help="seconds for each batch size")
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu_serving")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Operation by operation: where the time of our forms and of their rivals goes on a CPU.

One table for each runtime: the least time of each node over the rounds, summed up by operator, of
engines that take turns in one process. The rivals are those of ``cpu_serving.py``. ONNX Runtime's
static quantisation is there twice, with the quick kernel that it takes itself, which saturates
without VNNI, and with exact sums; a weight-only bundle on OpenVINO is there twice, with its weights
expanded in every run, and once.

    mimiq-compile deit_t --int8 --weights W -o w8a8.mimiq      # and --int4, --int4 --weight-only
    mimiq synthesize deit_t --weights W -o images
    python benchmarks/cpu_operations.py --weights W --calibration images --bundle w8a8.mimiq \\
        --openvino PYTHON
    python benchmarks/older_cpu.py avx2 -- python benchmarks/cpu_operations.py …
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from cpu_rivals import Rivals, add_arguments, make_rivals
from cpu_tables import counted, form_or_plain, measured_on, numbers, profile_line
from profiled_session import WARM_UP, Profiled
from record import write

from mimiq.errors import MimiqError
from mimiq.runtime.bundle import CPU_MODEL, OPENVINO_MODEL, Bundle
from mimiq.runtime.latency.rest import wait_for_rest
from mimiq.runtime.onnxruntime.graph import integer_kernels, open_graph
from mimiq.runtime.openvino import weights
from mimiq.runtime.openvino.networks import Floats, Settings

RESULTS = Path(__file__).with_name("results")
REST = "the rest"
_SMALL = 0.01  # share of the whole: below it everywhere, an operator is part of the rest
Operators = dict[str, tuple[float, int]]  # milliseconds and nodes, by operator


class Run(Protocol):
    """One engine with its input, made to be profiled."""

    def run(self) -> None: ...

    def operators(self) -> Operators: ...


class OnnxRuntimeRun:
    """A graph on ONNX Runtime.

    Args:
        path: the ONNX file.
        batch: images a run.
        threads: of the session.
        scratch: where the profiler may write.
        ours: open it as mimiq does, else with the library's defaults.
        exact: refuse the quick kernel that saturates; of ``ours`` mimiq decides.
    """

    def __init__(
        self, path: Path, batch: int, threads: int, scratch: Path, *, ours: bool, exact: bool
    ) -> None:
        if ours:
            kept = scratch / "optimized.onnx"
            session = open_graph(path, device="cpu", threads=threads, optimized_model=kept).session
            options = session.get_session_options()
            path = kept
        else:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.log_severity_level = 3
            options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
        self._session = Profiled(str(path), options, scratch, optimized=ours)
        self._session.bind(batch)

    def run(self) -> None:
        self._session.run()

    def operators(self) -> Operators:
        times, _, said = self._session.finish()
        return _summed({name: (said[name]["op_name"], ms) for name, ms in times.items()})


class OpenVINORun:
    """A graph on OpenVINO, compiled for its batch size, with ``PERF_COUNT``.

    Args:
        path: the ONNX file, or OpenVINO's own.
        batch: images a run.
        threads: of the one stream.
        floats: see :class:`mimiq.runtime.openvino.networks.Settings`.
        expanded: make quantised weights floating point before the network is compiled.
    """

    def __init__(
        self, path: Path, batch: int, threads: int, floats: Floats, *, expanded: bool
    ) -> None:
        import openvino

        core = openvino.Core()
        network = core.read_model(path)
        if expanded:
            weights.expand(network)
        shape = network.inputs[0].partial_shape
        size = [batch, *(shape[axis].get_length() for axis in (1, 2, 3))]
        network.reshape(size)
        properties = Settings(threads, floats=floats).properties | {"PERF_COUNT": "YES"}
        self._request = core.compile_model(network, "CPU", properties).create_infer_request()
        self._images = np.random.default_rng(0).standard_normal(size, np.float32)
        self._runs: list[dict[str, tuple[str, float]]] = []

    def run(self) -> None:
        wait_for_rest()
        self._request.infer({0: self._images})
        self._runs.append(
            {
                node.node_name: (node.node_type, 1e3 * node.real_time.total_seconds())
                for node in self._request.get_profiling_info()
                if node.real_time.total_seconds() > 0
            }
        )

    def operators(self) -> Operators:
        least: dict[str, tuple[str, float]] = {}
        for found in self._runs[WARM_UP:]:
            for name, (kind, ms) in found.items():
                least[name] = (kind, min(ms, least.get(name, (kind, ms))[1]))
        return _summed(least)


def _summed(nodes: Mapping[str, tuple[str, float]]) -> Operators:
    found: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for kind, ms in nodes.values():
        total, count = found[kind]
        found[kind] = (total + ms, count + 1)
    return dict(found)


def engines(
    arguments: argparse.Namespace,
    batch: int,
    threads: int,
    rivals: Rivals,
    scratch: Path,
) -> dict[str, dict[str, Run]]:
    """By runtime and name; the rivals, then the bundles."""

    def ort(path: Path, ours: bool = False, exact: bool = False) -> Run:
        return OnnxRuntimeRun(path, batch, threads, scratch, ours=ours, exact=exact)

    def openvino(path: Path, floats: Floats = "auto", expanded: bool = False) -> Run:
        return OpenVINORun(path, batch, threads, floats, expanded=expanded)

    on_ort: dict[str, Run] = {"fp32": ort(rivals.fp32)}
    for name, path in rivals.static.items():
        on_ort[f"static {name}"] = ort(path)
    if integer_kernels().saturates:
        on_ort["static u8s8, exact"] = ort(rivals.static["u8s8"], exact=True)
    on_openvino: dict[str, Run] = {
        "float32": openvino(rivals.fp32, "float32"),
        "its own choice": openvino(rivals.fp32),
    }
    if rivals.nncf is not None:
        on_openvino["NNCF int8"] = openvino(rivals.nncf)
    for bundle in map(Bundle, arguments.bundle):
        name = f"mimiq {bundle.precision_label}"
        on_ort[name] = ort(bundle.file(form_or_plain(bundle, CPU_MODEL)), ours=True)
        form = bundle.file(form_or_plain(bundle, OPENVINO_MODEL))
        if bundle.precision.quantizes_activations:
            on_openvino[name] = openvino(form)
        else:
            on_openvino[f"{name}, compressed"] = openvino(form)
            on_openvino[f"{name}, expanded"] = openvino(form, expanded=True)
    return {"ONNX Runtime": on_ort, "OpenVINO": on_openvino}


def run(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Make the rivals, run all in turns, and read the profiles."""
    rivals = make_rivals(arguments, scratch)
    result: dict[str, Any] = {
        **measured_on(rivals.model.describe(), "openvino"),
        "rounds": arguments.rounds,
        "load": [os.getloadavg()[0]],
        "rows": [],
    }
    for batch in arguments.batches:
        for threads in arguments.threads:
            print(f"batch {batch}, {threads} threads", file=sys.stderr)
            opened = engines(arguments, batch, threads, rivals, scratch)
            for _ in range(WARM_UP + arguments.rounds):
                for runtime in opened.values():
                    for engine in runtime.values():
                        engine.run()
            found = {
                runtime: {name: engine.operators() for name, engine in several.items()}
                for runtime, several in opened.items()
            }
            result["rows"].append({"batch": batch, "threads": threads, "operators": found})
    result["load"].append(os.getloadavg()[0])
    return result


def table(result: Mapping[str, Any]) -> str:
    """Markdown: operators by engines, milliseconds and nodes."""
    lines = [
        f"# {result['model']['name']} on a CPU, operation by operation",
        "",
        f"{profile_line(result)} Milliseconds in so many nodes.",
    ]
    for row in result["rows"]:
        where = f"batch {row['batch']}, {counted(row['threads'], 'thread')}"
        for runtime, found in row["operators"].items():
            lines += ["", f"## {runtime}, {where}", "", *_operators(found)]
    return "\n".join(lines) + "\n"


def _operators(found: Mapping[str, Operators]) -> list[str]:
    totals = {name: sum(ms for ms, _ in each.values()) for name, each in found.items()}
    largest: dict[str, float] = defaultdict(float)
    for name, each in found.items():
        for kind, (ms, _) in each.items():
            largest[kind] = max(largest[kind], ms / totals[name])
    shown = [
        kind for kind, share in sorted(largest.items(), key=lambda one: -one[1]) if share >= _SMALL
    ]
    lines = ["| |" + "".join(f" {name} |" for name in found), "|---|" + "---|" * len(found)]
    for kind in shown:
        cells = [each.get(kind) for each in found.values()]
        lines.append(
            f"| {kind} |"
            + "".join(f" {cell[0]:.2f} in {cell[1]} |" if cell else " – |" for cell in cells)
        )
    rest = [
        totals[name] - sum(each[kind][0] for kind in shown if kind in each)
        for name, each in found.items()
    ]
    lines.append(f"| {REST} |" + "".join(f" {ms:.2f} |" for ms in rest))
    lines.append("| all |" + "".join(f" {ms:.2f} |" for ms in totals.values()))
    return lines


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        result = run(arguments, Path(scratch))
    write(arguments.out.parent, arguments.out.name, result, table(result))
    print(table(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--batches", type=numbers, default=(1, 8), help="e.g. 1,8")
    parser.add_argument("--threads", type=numbers, default=(1, 2), help="e.g. 1,2")
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu_operations")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except MimiqError as error:
        sys.exit(str(error))

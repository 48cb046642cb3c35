"""Where the time of a bundle goes under ONNX Runtime on a CPU, and what its bare products take.

Each graph is optimised as mimiq opens it, and run with ONNX Runtime's profiler on. In turns with
it, in the same process: its products *alone*, the very nodes with their weights and nothing around
them, and *bare*, ``MatMulInteger`` (uint8 × int8 → int32) of the same shapes without scales, bias
or rounding: the limit of the library's INT8 kernels, and beside them a large square one. Of each
node the least time over the rounds counts, since other work on the host can only add to it.

    mimiq-compile deit_t --int8 --weights W -o w8a8.mimiq      # and --int4, --int4 --weight-only
    python benchmarks/cpu_profile.py --bundle w8a8.mimiq --bundle w4a8.mimiq --bundle w4.mimiq
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from cpu_profile_products import (
    ATTENTION,
    LINEARS,
    PRODUCTS,
    SQUARE,
    SQUARE_SIDE,
    alone,
    bare,
    products,
    with_weights,
)
from cpu_tables import counted, form_or_plain, measured_on, numbers, profile_line
from profiled_session import WARM_UP, Profiled
from record import write

from mimiq.errors import MimiqError
from mimiq.runtime.bundle import CPU_MODEL, Bundle
from mimiq.runtime.onnxruntime.graph import open_graph

RESULTS = Path(__file__).with_name("results")
KINDS = {
    "QuantizeLinear, DequantizeLinear": ("QuantizeLinear", "DequantizeLinear"),
    "softmax": ("Softmax",),
    "LayerNorm": ("LayerNormalization", "SkipLayerNormalization"),
    "GELU": ("Gelu", "BiasGelu"),
    "patch embedding": ("Conv", "FusedConv"),
    "transposes and other moves": ("Transpose", "Reshape", "Split", "Slice", "Squeeze", "Concat"),
}
REST, BETWEEN = "residuals and the rest", "between nodes, and the profiler"
GROUPS = (LINEARS, ATTENTION, *KINDS, REST, BETWEEN)


def profile(path: Path, batch: int, threads: int, rounds: int, scratch: Path) -> dict[str, Any]:
    """One graph at one batch size: ms by group, of products alone and bare, and multiplications."""
    kept = scratch / "optimized.onnx"
    opened = open_graph(path, device="cpu", threads=threads, optimized_model=kept).session
    graph = onnx.load(kept).graph

    def session(content: str | bytes) -> Profiled:
        made = Profiled(content, opened.get_session_options(), scratch)
        made.bind(batch)
        return made

    look = session(str(kept))
    for _ in range(WARM_UP):
        look.run()
    found = products(graph, look.finish()[2])
    sessions = {
        "network": session(str(kept)),
        "alone": session(alone(graph, found)),
        "bare": session(bare(found)),
    }
    for _ in range(WARM_UP + rounds):
        for one in sessions.values():
            one.run()
    times, between, said = sessions["network"].finish()
    groups = dict.fromkeys(GROUPS, 0.0) | {BETWEEN: between}
    weighted = with_weights(graph)
    for name, ms in times.items():
        groups[_group(said[name]["op_name"], name in weighted)] += ms
    result = {"batch": batch, "threads": threads, "ms": groups, "nodes": len(times)}
    for which in ("alone", "bare"):
        each = sessions[which].finish()[0]
        result[which] = {
            group: sum(each[f"{i}"] * p.count for i, p in enumerate(found) if p.group == group)
            for group in (LINEARS, ATTENTION)
        }
        if SQUARE in each:
            result["square_gmacs"] = SQUARE_SIDE**3 / each[SQUARE] / 1e6
    result["gmacs"] = {
        group: sum(p.macs * p.count for p in found if p.group == group) / 1e9
        for group in (LINEARS, ATTENTION)
    }
    return result


def _group(kind: str, weighted: bool) -> str:
    if kind in PRODUCTS:
        return LINEARS if weighted else ATTENTION
    return next((group for group, kinds in KINDS.items() if kind in kinds), REST)


def table(result: Mapping[str, Any]) -> str:
    """Markdown: where the time goes, and what products take alone and bare."""
    lines = [
        f"# Where the time of {result['model']} goes under ONNX Runtime on a CPU",
        "",
        profile_line(result),
    ]
    for form, rows in result["forms"].items():
        for batch in dict.fromkeys(row["batch"] for row in rows):
            here = [row for row in rows if row["batch"] == batch]
            lines += ["", f"## {form}, batch {batch}", "", *_times(here), "", *_products(here)]
    return "\n".join(lines) + "\n"


def _times(rows: list[dict[str, Any]]) -> list[str]:
    first = rows[0]
    heads = "".join(f" ms, {counted(row['threads'], 'thread')} | share |" for row in rows)
    several = len(rows) > 1
    lines = [
        f"| |{heads}" + " speed-up |" * several,
        "|---|" + "---|---|" * len(rows) + "---|" * several,
    ]
    sums = [sum(row["ms"].values()) for row in rows]
    for group in (*GROUPS, "all"):
        cells = ""
        each = sums if group == "all" else [row["ms"][group] for row in rows]
        for ms, total in zip(each, sums, strict=True):
            cells += f" {ms:.2f} | {100 * ms / total:.1f} % |"
        gain = f" {each[0] / each[-1]:.2f}× |" if several and each[-1] else ""
        if each[0] or group == "all":
            lines.append(f"| {group} |{cells}{gain}")
    return [*lines, "", f"{first['nodes']} nodes."]


def _products(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| | ms in the network | alone | bare | GMAC/s in the network / bare / square | "
        "bare over network | bare over all |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        total = sum(row["ms"].values())
        for group in (LINEARS, ATTENTION):
            ms, bare_ms, macs = row["ms"][group], row["bare"][group], row["gmacs"][group]
            if not ms:
                continue
            lines.append(
                f"| {group}, {counted(row['threads'], 'thread')} | {ms:.2f} | "
                f"{row['alone'][group]:.2f} | {bare_ms:.2f} | "
                f"{1e3 * macs / ms:.0f} / {1e3 * macs / bare_ms:.0f} / "
                f"{row['square_gmacs']:.0f} | {100 * bare_ms / ms:.0f} % | "
                f"{100 * bare_ms / total:.0f} % |"
            )
    return lines


def main() -> None:
    arguments = _arguments()
    bundles = [Bundle(path) for path in arguments.bundle]
    result: dict[str, Any] = {
        **measured_on(bundles[0].model_name),
        "rounds": arguments.rounds,
        "load": [os.getloadavg()[0]],
        "forms": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for bundle in bundles:
            form = form_or_plain(bundle, CPU_MODEL)
            rows = result["forms"].setdefault(f"{bundle.precision_label}, `{form}`", [])
            for batch in arguments.batches:
                for threads in arguments.threads:
                    print(bundle.path, f"batch {batch}, {threads} threads", file=sys.stderr)
                    found = profile(
                        bundle.file(form), batch, threads, arguments.rounds, Path(scratch)
                    )
                    rows.append(found)
    result["load"].append(os.getloadavg()[0])
    write(arguments.out.parent, arguments.out.name, result, table(result))
    print(table(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--batches", type=numbers, default=(1, 8, 32), help="e.g. 1,8")
    parser.add_argument("--threads", type=numbers, default=(1, 2), help="e.g. 1,2")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu_profile")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except MimiqError as error:
        sys.exit(str(error))

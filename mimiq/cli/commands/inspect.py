"""``inspect``: what is in a bundle or an ONNX file, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import options
from mimiq.cli.commanding import Command
from mimiq.cli.output import print_json, show, shown, size, table, working
from mimiq.cli.parameters import PATH
from mimiq.errors import BadInput, missing_extra, pip_install
from mimiq.libraries import missing_libraries

if TYPE_CHECKING:
    from mimiq.export.tensorrt.proof import Proof
    from mimiq.runtime.bundle import Bundle

_GRAPH_LIBRARIES = {"onnx", "onnx_ir"}


@click.command(
    "inspect",
    cls=Command,
    short_help="Layers, weights and engines, and their proof.",
    examples=(
        ("mimiq inspect deit_t-w8a8.mimiq", "layers, weights, engines"),
        ("mimiq inspect model.onnx", "any graph"),
    ),
)
@click.argument("path", type=PATH)
@options.json_option
def inspect_command(path: Path, json: bool) -> None:
    """Show what is in PATH, a bundle or an ONNX file: layers, weights, engines and their proof.

    The proof of an engine says, product by product, in which precision it is really computed.
    """
    if path.suffix == ".onnx" or path.is_file():
        if path.suffix != ".onnx":
            raise BadInput(f"{path} is no bundle and no .onnx file.", "Give one of these.")
        _inspect_graph(path, json)
        return
    from mimiq.export.tensorrt.engines import recorded_proofs
    from mimiq.runtime.bundle import Bundle

    bundle = Bundle(path)
    proofs = recorded_proofs(bundle)
    graphs = _graphs(bundle)
    if json:
        print_json(
            {
                "bundle": str(path),
                "manifest": bundle.manifest.to_json(),
                "graphs": graphs,
                "engines": {name: proof.to_json() for name, proof in proofs.items()},
            }
        )
        return
    _show_bundle(bundle, graphs, proofs)


def _inspect_graph(path: Path, json: bool) -> None:
    if not _can_read_graphs():
        raise missing_extra("onnx-ir", "pack")
    summary = _summary(path)
    if json:
        print_json({"path": str(path), "graph": summary})
        return
    show(graph_table(str(path), summary))
    if summary["metadata"]:
        show("", table(("metadata", ""), sorted(summary["metadata"].items())))


def _graphs(bundle: Bundle) -> dict[str, dict[str, Any]] | None:
    """A summary of each graph in a bundle; None on a host that cannot read graphs."""
    if not _can_read_graphs():
        return None
    names = sorted(name for name in bundle.manifest.files if name.endswith(".onnx"))
    return {name: _summary(bundle.file(name)) for name in names}


def _summary(path: Path) -> dict[str, Any]:
    from mimiq.export import summarize

    with working():
        return summarize(path)


def _can_read_graphs() -> bool:
    return not _GRAPH_LIBRARIES & set(missing_libraries())


def graph_table(name: str, summary: Mapping[str, Any]) -> Any:
    """One graph's layers, attention and bytes, for people."""
    from mimiq.export.tensorrt.proof import outlier_sentence

    rows: list[tuple[object, object]] = [
        (f"{count} ×", layer) for layer, count in summary["layers"].items()
    ]
    if summary["outlier_columns"]:
        rows.append(("", outlier_sentence(summary["outlier_columns"])))
    rows += [(f"{count} ×", f"attention, {how}") for how, count in summary["attention"].items()]
    rows += [
        ("slow", f"on a CPU: {name} is not split into q, k and v, for {reason}")
        for name, reason in summary["not_split"].items()
    ]
    stored = [f"{kind} {size(count)}" for kind, count in summary["weight_bytes"].items()]
    rows.append(("", "weights: " + ", ".join([*stored, f"scales {size(summary['scale_bytes'])}"])))
    return table(("", ""), rows, f"{name}, {size(summary['file_bytes'])}, opset {summary['opset']}")


def _show_bundle(
    bundle: Bundle, graphs: Mapping[str, Any] | None, proofs: Mapping[str, Proof]
) -> None:
    from mimiq.export.tensorrt.proof import proof_table
    from mimiq.runtime.image_files import described

    manifest = bundle.manifest
    calibration = manifest.calibration
    rows = [
        ("model", f"{bundle.model_name} ({manifest.architecture})"),
        ("precision", bundle.precision_label),
        ("input", described(bundle.preprocessing.input_shape)),
        ("answers with", bundle.answer + (", named" if bundle.labels else "")),
        ("calibrated on", f"{calibration.get('count')} images, {calibration.get('kind')}"),
        ("made", f"{manifest.created} by mimiq {manifest.mimiq}"),
        ("digest", bundle.digest),
    ]
    rows += [(name, size(entry.bytes)) for name, entry in manifest.files.items()]
    show(table(("", ""), rows, str(shown(bundle.path))))
    if bundle.untrained:
        show("UNTRAINED: random weights, good for latency alone.")
    if graphs is None:
        show("", f"The graphs are not shown: {pip_install('pack')} brings what reads them.")
    for name, summary in (graphs or {}).items():
        show("", graph_table(name, summary))
    for name, proof in proofs.items():
        show("", proof_table(proof, name))
    if not proofs:
        show("", f"No TensorRT engine; mimiq build {shown(bundle.path)} makes one.")

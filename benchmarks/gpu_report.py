"""The roofline, and the tables of benchmarks/gpu.py as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpu_graphs import VARIANTS, Prepared

# Bytes of a weight, of an activation that a product reads, of one that it writes.
_SIZES = {
    "fp16": (2.0, 2, 2),
    "int8": (1.0, 1, 2),
    "int8-wide": (1.0, 1, 4),
    "w4": (0.5, 2, 2),
    "w4a8": (1.0, 1, 2),
    "w4a8-int4": (0.5, 1, 4),
}
_HALF = ("fp16", "w4")  # the others multiply int8


@dataclass(frozen=True)
class Product:
    """One matrix product of the network: (m × k) · (k × n), ``count`` of them an image."""

    m: int
    k: int
    n: int
    count: int
    has_weight: bool


def products(model: Prepared) -> Iterator[Product]:
    """Every matrix product of one image's forward, the patch embedding as the product it is."""
    patches = (model.image // model.patch) ** 2
    tokens, width = patches + 1, model.width
    head = width // model.heads
    yield Product(patches, 3 * model.patch**2, width, 1, True)
    for out, inputs in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width)):
        yield Product(tokens, inputs, out, model.depth, True)
    yield Product(tokens, head, tokens, model.depth * model.heads, False)
    yield Product(tokens, tokens, head, model.depth * model.heads, False)
    yield Product(1, width, model.classes, 1, True)


def roofline_ms(
    model: Prepared, variant: str, batch: int, ceilings: Mapping[str, float]
) -> float | None:
    """The least time that the measured ceilings allow, in milliseconds.

    The sum over the matrix products of the longer of operations over peak and bytes over bandwidth.
    A product with a weight reads its input and weight and writes its output once; one inside fused
    attention moves nothing. All that is not a product is taken to be free.
    """
    peak = ceilings.get("half" if variant in _HALF else "int8")
    bandwidth = ceilings.get("copy")
    if peak is None or bandwidth is None:
        return None
    weight_size, read_size, write_size = _SIZES[variant]
    seconds = 0.0
    for product in products(model):
        operations = 2.0 * batch * product.m * product.k * product.n * product.count
        moved = 0.0
        if product.has_weight:
            moved += product.count * product.k * product.n * weight_size
            moved += product.count * batch * product.m * product.k * read_size
            moved += product.count * batch * product.m * product.n * write_size
        seconds += max(operations / peak, moved / bandwidth)
    return 1000 * seconds


def operations(model: Prepared) -> float:
    """Of one image, a multiply-add counted as two."""
    return sum(2.0 * p.m * p.k * p.n * p.count for p in products(model))


def markdown(result: Mapping[str, Any]) -> str:
    """The whole result for people."""
    lines = [f"# {result['device']['name']}", ""]
    lines += [f"Measured {result['date']} by `{result['command']}`.", ""]
    if result["dry_run"]:
        lines += [
            "A dry run on a CPU: it shows that the script works, nothing about a GPU.",
            "",
        ]
    lines += ["## Host", ""]
    lines += [f"- {key}: {value}" for key, value in result["device"].items()]
    lines += [f"- {key} {value}" for key, value in result["software"].items()]
    lines += [
        f"- measured ceiling, {key}: {value:.3g}/s" for key, value in result["ceilings"].items()
    ]
    lines += ["", "## Products", ""]
    for name, product in result["products"].items():
        lines += _product(name, product)
    for model in result["models"]:
        lines += _model(model)
    lines += _accuracy(result["accuracy"])
    return "\n".join(lines) + "\n"


def _product(name: str, product: Mapping[str, Any]) -> Iterator[str]:
    if product["refusal"] is None:
        yield f"- {name} {product['version']}: runs on this host."
        return
    yield f"- {name} {product['version'] or ''}: does not run on this host. Its words:"
    for attempt, words in product["attempts"].items():
        yield f"  - {attempt}: {' '.join(str(words).split())}"


def _model(model: Mapping[str, Any]) -> Iterator[str]:
    weights = "untrained weights, for latency alone" if model["untrained"] else "trained weights"
    yield from ("", f"## {model['model']} ({weights}, {model['gflop']:.2f} GFLOP an image)", "")
    if model["engines"]:
        yield "| engine | MB | Linears | attention | kernels | fallbacks | build s |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for name, engine in model["engines"].items():
            if "error" in engine:
                yield f"| {name} | {' '.join(engine['error'].split())} | | | | | |"
                continue
            linears = ", ".join(f"{count} × {kind}" for kind, count in engine["linears"].items())
            fused = ", ".join(f"{count} × {kind}" for kind, count in engine["attentions"].items())
            cells = [name, f"{engine['bytes'] / 1e6:.1f}", linears, fused, engine["kernels"]]
            cells += [engine["fallbacks"], f"{engine['seconds']:.1f}"]
            yield "| " + " | ".join(map(str, cells)) + " |"
        yield ""
    yield f"Times in ms. The ratio is the time of `{model['reference']}` over this, pair by pair."
    columns = ("batch", "engine", "p50", "p90", "p99", "images/s", "ratio", "quartiles", "roofline")
    yield from ("", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns))
    for row in model["rows"]:
        low, high = row["speedup_quartiles"]
        least = model["roofline_ms"].get(row["engine"], {}).get(str(row["batch"]))
        bound = "" if least is None else f"{least:.4f}"
        yield (
            f"| {row['batch']} | {row['engine']} | {row['p50_ms']:.3f} | {row['p90_ms']:.3f} "
            f"| {row['p99_ms']:.3f} | {row['throughput']:.0f} | {row['speedup']:.3f} "
            f"| {low:.3f}–{high:.3f} | {bound} |"
        )
    yield ""
    for name, sentences in model["verdicts"].items():
        yield f"- `{name}`: {' '.join(sentences)}"
    explained = "; ".join(f"`{name}`: {what}" for name, what in VARIANTS.items())
    yield from ("", f"Engines: {explained}.")


def _accuracy(accuracy: Mapping[str, Any] | None) -> Iterator[str]:
    yield from ("", "## Accuracy", "")
    if accuracy is None:
        yield "Not measured: it needs trained weights and --images."
        return
    for name, entry in accuracy.items():
        yield f"- {name}: {entry}"

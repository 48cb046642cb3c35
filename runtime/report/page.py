"""A bundle's report as one HTML page: no scripts, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from mimiq.errors import BadInput
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.evaluation.binary import words
from mimiq.runtime.files.json_objects import COMPILE_AGAIN
from mimiq.runtime.host import host_name
from mimiq.runtime.image_files import described
from mimiq.runtime.latency import tuned
from mimiq.runtime.report import charts
from mimiq.runtime.report.accuracy import accuracy_parts, points, words_of
from mimiq.runtime.report.cost import cost_parts
from mimiq.runtime.report.dates import in_words
from mimiq.runtime.report.document import document
from mimiq.runtime.report.fastest import fastest_parts
from mimiq.runtime.report.latency import latency_parts
from mimiq.runtime.report.layers import layer_parts
from mimiq.runtime.report.markup import append, element, prose, table
from mimiq.runtime.report.memory import memory_parts
from mimiq.runtime.report.report import Report, Tuning
from mimiq.runtime.report.terminal import megabytes, similarity_rows

# As a manifest names layers before they are placed in a network.
_ROLES = {
    "@stem": "patch embedding",
    "@classifier": "classifier",
    "@unquantized": "layers of other kinds",
}

Facts = Sequence[tuple[str, str]]


def page(
    bundle: Bundle, engines: Mapping[str, Facts] | None = None, sheet: bytes | None = None
) -> str:
    """The page.

    Args:
        bundle: what it is about; a bundle without a report gives a page without measurements.
        engines: by name, what the proof of precision of each engine says.
        sheet: calibration images as a JPEG, to be shown in place of the bundle's own.

    Raises:
        BadInput: when the bundle's manifest or report holds something else than it should.
    """
    report = bundle.report or Report()
    try:
        return _page(bundle, report, engines or {}, sheet or bundle.sheet)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadInput(
            f"The manifest of {bundle.path} is incomplete: {type(error).__name__} {error}.",
            COMPILE_AGAIN,
        ) from error


def _page(bundle: Bundle, report: Report, engines: Mapping[str, Facts], sheet: bytes | None) -> str:
    title = f"{bundle.model_name} → {bundle.precision_label}"
    body = element("body", *_head(bundle, title))
    tiles = [element("div", *parts, class_="tile") for parts in _tiles(report)]
    if tiles:
        append(body, element("div", *tiles, class_="tiles"))
    for heading, parts in _sections(bundle, report, engines, sheet):
        append(body, element("h2", heading), *parts)
    return document(title, body)


def _head(bundle: Bundle, title: str) -> Iterator[Element]:
    model, manifest = bundle.manifest["model"], bundle.manifest
    yield element("h1", title)
    facts = [str(model.get("architecture", ""))]
    if count := model.get("parameters"):
        facts.append(f"{count / 1e6:.2f} million parameters")
    facts += [bundle.answer, f"images of {described(bundle.preprocessing.input_shape)}"]
    yield element("p", " · ".join(filter(None, facts)), class_="quiet")
    created = str(manifest["created"])
    yield element(
        "p",
        "Compiled ",
        element("time", in_words(created), datetime=created),
        f" by mimiq {manifest['mimiq']} · {bundle.digest[:16]}",
        class_="quiet",
    )
    if bundle.untrained:
        yield element("p", "UNTRAINED: random weights, good for latency alone.", class_="warning")


def _tiles(report: Report) -> Iterator[tuple[Element, ...]]:
    def tile(name: str, value: str, more: str) -> tuple[Element, ...]:
        return (
            element("div", name, class_="name"),
            element("div", value, class_="value"),
            element("div", more, class_="more"),
        )

    if found := report.accuracy:
        more = f"{points(found)} points against full precision, on {found.count} images"
        yield tile(words_of(found).right, f"{found.accuracy.top1:.2f} %", more)
        error = f"as full precision; logit error {100 * found.logit_error:.2f} %"
        yield tile("same answer", f"{100 * found.agreement:.1f} %", error)
    elif cost := report.held_out:
        unit = words(cost.probability_difference is not None).points
        more = f"{unit}, estimated without labels on {cost.count} images held out"
        yield tile("probably lost", f"{cost.points:.1f}", more)
    if near := report.similarity:
        mean = near.evaluation.mean if near.evaluation else near.mean
        where = f"{near.evaluation.count} images given" if near.evaluation else "images held out"
        yield tile("cosine", f"{mean:.4f}", f"with full precision's embeddings, on {where}")
    size = report.size
    if size.bytes:
        before = size.reference_bytes
        more = f"{size.ratio:.1f}× smaller than {megabytes(before)}" if before else ""
        yield tile("model file", megabytes(size.bytes), more)
    rows = report.latency
    if faster := [row for row in rows if row.engine != rows[0].engine]:
        low, high = (find(row.speedup for row in faster) for find in (min, max))
        value = f"{low:.1f}×" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}–{high:.1f}×"
        where = ", ".join(str(row.batch) for row in faster)
        yield tile("speed", value, f"against {rows[0].engine}, batch {where}, on this host")


def _sections(
    bundle: Bundle, report: Report, engines: Mapping[str, Facts], sheet: bytes | None
) -> Iterator[tuple[str, list[Element]]]:
    """(heading, content) of each section that there is something for."""
    if report.notes or report.fallbacks:
        warnings = [element("li", text, class_="warning") for text in report.fallbacks]
        notes = [element("li", prose(text)) for text in report.notes]
        yield "To know before using the numbers", [element("ul", *warnings, *notes)]
    if report.accuracy:
        yield "Accuracy", accuracy_parts(report, report.accuracy, bundle.labels)
    if report.held_out:
        yield "Cost on images held out", cost_parts(report.held_out)
    if report.similarity:
        yield "Similarity", [table((), similarity_rows(report.similarity))]
    if report.latency:
        yield "Latency", latency_parts(report)
    if measured := tuned.read(bundle):
        yield "Fastest backend", fastest_parts(measured)
    if report.layers:
        yield "Layers that cost most", layer_parts(report.layers)
    if report.memory:
        yield "Memory", memory_parts(report.memory)
    yield "Precision", _precision(bundle, engines)
    yield "Calibration", _calibration(bundle, sheet)
    if report.tuning and report.tuning.steps and report.tuning.history:
        yield "Distillation", _distillation(report.tuning)
    yield "How it was made", _provenance(bundle, report)


def _precision(bundle: Bundle, engines: Mapping[str, Facts]) -> list[Element]:
    precision = bundle.precision.to_json()
    attention = precision.get("attention_bits")
    rows = [
        ("Linears", _layer(precision.get("linear") or {})),
        *((_ROLES.get(name, name), _layer(of)) for name, of in precision.get("overrides") or ()),
        ("attention", f"{attention} bits" if attention else "floating point"),
    ]
    parts = [table((), rows)]
    for name, facts in engines.items():
        parts += [element("p", f"{name}, read back from what was built:"), table((), facts)]
    if not engines:
        parts.append(element("p", "No TensorRT engine has been built.", class_="quiet"))
    return parts


def _layer(layer: Mapping[str, Any]) -> str:
    weights, inputs = layer.get("weight_bits"), layer.get("activation_bits")
    if weights is None:
        return "floating point"
    granularity = layer.get("granularity")
    scales = f"in blocks of {granularity}" if isinstance(granularity, int) else str(granularity)
    return f"{weights}-bit weights {scales}, " + (
        f"{inputs}-bit inputs" if inputs else "floating-point inputs"
    )


def _calibration(bundle: Bundle, sheet: bytes | None) -> list[Element]:
    manifest = bundle.manifest.get("calibration") or {}
    recipe = (bundle.manifest.get("recipes") or {}).get("name")
    rows = [("images", f"{manifest.get('count')}, {manifest.get('kind')}")]
    if scenes := (bundle.manifest.get("recipes") or {}).get("procedural"):
        rows.append(("beside them", f"{scenes} random scenes"))
    if recipe:
        rows.append(("recipe", str(recipe)))
    rows.append(("seed", str(bundle.manifest.get("seed"))))
    parts = [table((), rows)]
    if sheet is not None:
        source = f"data:image/jpeg;base64,{base64.b64encode(sheet).decode()}"
        image = element("img", src=source, alt="calibration images", class_="sheet")
        caption = element("figcaption", "The first of them, made from the network alone.")
        parts.append(element("figure", image, caption))
    if raised := bundle.manifest.get("raised"):
        parts += _raised(raised)
    return parts


def _raised(raised: Mapping[str, Any]) -> list[Element]:
    rows = [
        (str(unit.get("name")), f"{unit.get('now')} → {unit.get('raised')}")
        for unit in raised.get("units") or ()
    ]
    words = element("p", prose(str(raised.get("note", ""))))
    return [words, table(("raised", "precision"), rows)] if rows else [words]


def _distillation(tuning: Tuning) -> list[Element]:
    history = [(float(step), loss) for step, loss in tuning.history]
    best = min(range(len(history)), key=lambda index: history[index][1])
    words = (
        f"Loss on held-out calibration images by step: {tuning.initial_loss:.4f} before, "
        f"{tuning.best_loss:.4f} at step {tuning.best_step}, whose state was kept."
    )
    return [
        charts.figure(
            lambda width: charts.curve(
                history, best, "Held-out loss by step", axes=("step", "held-out loss"), width=width
            ),
            words,
        )
    ]


def _provenance(bundle: Bundle, report: Report) -> list[Element]:
    manifest = bundle.manifest
    hardware = manifest.get("hardware") or {}
    software = ", ".join(f"{name} {of}" for name, of in (manifest.get("software") or {}).items())
    rows = [
        ("hardware", host_name(hardware, "gpu" if hardware.get("gpus") else "cpu")),
        ("software", software),
        ("weights, SHA-256", str(manifest["model"].get("weights_sha256"))),
        *(
            (name, f"{entry['bytes']:,} bytes, SHA-256 {entry['sha256'][:16]}…")
            for name, entry in manifest["files"].items()
        ),
        ("bundle", bundle.digest),
    ]
    recipes = json.dumps(manifest.get("recipes"), indent=2)
    command = [element("p", "The same again:"), element("pre", report.command, class_="command")]
    return [
        *(command if report.command else ()),
        table((), rows),
        element("details", element("summary", "The whole recipe"), element("pre", recipes)),
    ]

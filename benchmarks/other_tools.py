"""What our images give another tool: its quantiser calibrated on them, on random data, on nothing.

ONNX Runtime's static quantisation (Q/DQ, uint8 activations, int8 weights per channel, ranges by
minimum and maximum), calibrated on as many images of each kind, judged on folders of images that
nothing is calibrated on, each graph as ONNX Runtime executes it:

    mimiq synthesize deit_t --weights deit_tiny_patch16_224.safetensors -o set --format npy
    python benchmarks/other_tools.py --model deit_t --weights deit_tiny_patch16_224.safetensors \\
        --images set/images.npy --judge photographs --judge wallpapers
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import record
from cpu_serving_peers import static_quantization

from mimiq.calibrate.sources import image_files
from mimiq.export import export_onnx
from mimiq.models import LoadedModel, load_model
from mimiq.runtime.evaluation.datasets import unlabelled
from mimiq.runtime.evaluation.held_out import relative_error
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.preprocessing import FloatArray


def main() -> None:
    arguments = _arguments()
    model = load_model(arguments.model, weights=arguments.weights)
    ours = np.load(arguments.images)
    draw = np.random.default_rng(0)
    calibration = {
        "normal noise": draw.standard_normal(ours.shape, np.float32),
        "uniform noise": model.preprocessing.normalize(
            draw.integers(0, 256, (len(ours), *ours.shape[2:], ours.shape[1]), np.uint8)
        ),
        "ours": ours,
    }
    judges = {folder.name: _images(model, folder, arguments.judges) for folder in arguments.judge}
    with tempfile.TemporaryDirectory() as scratch:
        fp32 = Path(scratch) / "fp32.onnx"
        export_onnx(model.module, model.preprocessing.input_shape, fp32, output=model.output)
        expected = _answers(fp32, judges)
        rows = []
        for name, images in calibration.items():
            folder = Path(scratch) / name.replace(" ", "-")
            folder.mkdir()
            found = _answers(static_quantization(fp32, images, folder)["u8s8"], judges)
            rows.append({"calibrated on": name, **_compared(found, expected)})
            print(rows[-1], flush=True)
    study = f"other_tools_{arguments.model}"
    result = {**record.made_with(model), "count": len(ours), "rows": rows}
    record.write(arguments.output, study, result, table(rows))
    print(table(rows))


def _images(model: LoadedModel, folder: Path, most: int) -> list[FloatArray]:
    files = unlabelled(image_files(folder), most)
    return [pixels for pixels, _ in files.batches(model.preprocessing, 32)]


def _answers(graph: Path, judges: dict[str, list[FloatArray]]) -> dict[str, FloatArray]:
    with OnnxRuntimeSession(graph) as session:
        return {
            name: np.concatenate([session.run(batch) for batch in batches])
            for name, batches in judges.items()
        }


def _compared(
    found: dict[str, FloatArray], expected: dict[str, FloatArray]
) -> dict[str, dict[str, float]]:
    return {
        name: {
            "error": relative_error(found[name], wanted),
            "agreement": float((found[name].argmax(-1) == wanted.argmax(-1)).mean()),
        }
        for name, wanted in expected.items()
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Logit errors in percent of their variance, and answers that stay."""
    judges = [name for name, value in rows[0].items() if isinstance(value, dict)]
    head = ["calibrated on"]
    head += [f"{name}: {what}" for name in judges for what in ("error, %", "same answer, %")]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["calibrated on"]]
        for name in judges:
            cells += [f"{100 * row[name]['error']:.1f}", f"{100 * row[name]['agreement']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", default="deit_t")
    add("--weights", type=Path)
    add("--images", type=Path, required=True, help="what mimiq synthesize --format npy wrote")
    add("--judge", type=Path, action="append", required=True, help="a folder; may be repeated")
    add("--judges", type=int, default=128, help="images of each folder")
    add("--output", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()

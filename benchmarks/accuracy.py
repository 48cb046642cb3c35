"""What each precision and each part of the method costs or gains, on the exported graph.

Every row is one compilation: the graph under ONNX Runtime against the full-precision network on the
same labelled images, which choose nothing. Several networks are measured side by side, and the
images of several folders pooled:

    python benchmarks/accuracy.py --network deit_t=deit_t:deit_tiny_patch16_224.safetensors \\
        --network vit_t=vit_t:vit_tiny_patch16_224.safetensors \\
        --network planted=deit_t:planted.safetensors --calibration planted=deit_t \\
        --eval imagenet-sample --eval imagenet-val \\
        --rows w8a8,w4a8 --variants default,noise --seeds 0,1,2 --output results/accuracy.json

Rows that the output file holds already are not measured again; stages come from the cache. Several
processes, or hosts, measure rows of their own, each into a file of its own, and the files are
joined:

    python benchmarks/accuracy.py … --seeds 0 --output part0.json
    python benchmarks/accuracy.py … --seeds 1 --output part1.json
    python benchmarks/accuracy.py --merge part0.json part1.json --output results/accuracy.json

The paper's method and its ablation, at a scale for a CPU:

    python benchmarks/accuracy.py … --recipe paper --images 64 --iterations 80 --steps 200 \\
        --optimizer adamw --rows w4a8-uniform --output results/ablation_deit_t.json \\
        --variants noise,no-similarity,default,psaq,no-head-distillation

What each part of ours gives, before distillation:

    python benchmarks/accuracy.py … --steps 0 --rows w4a8-uniform \\
        --output results/parts_deit_t.json \\
        --variants default,no-rotation,no-refit,nearest-rounding,no-procedural,minmax-ranges

A trial in a minute: ``--network digits=digits --eval digits --recipe tiny --rows w8a8``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accuracy_results as results
import torch
from accuracy_images import Images, Judged, Reference, content_hash, pooled
from accuracy_networks import Network, calibration_source, parse_networks
from accuracy_tables import table
from accuracy_variants import PRECISIONS, VARIANTS, Scale, recipe_of

from mimiq.cache import Cache, default_cache_dir
from mimiq.cli.terminal_progress import shown_progress
from mimiq.compiler import compile_model
from mimiq.config.recipes import NAMES
from mimiq.devices import describe_device, pick_device
from mimiq.errors import MimiqError
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.host import instruction_sets
from mimiq.runtime.opening import open_bundle
from mimiq.spec import Job


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    try:
        if arguments.merge:
            result, failed = results.merged(arguments.merge), 0
            results.write(arguments.output, result)
        else:
            if not (arguments.network and arguments.eval):
                parser.error("give --network and --eval, or --merge")
            if "real" in arguments.variants and arguments.real is None:
                parser.error("the variant real needs --real FOLDER")
            result, failed = _measure_all(arguments)
    except MimiqError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(table(result))
    arguments.output.with_suffix(".md").write_text(table(result))
    return failed


def _measure_all(arguments: argparse.Namespace) -> tuple[results.Result, int]:
    """Every row that is not there yet; 1 where one failed, which does not stop the others."""
    bench = Bench(arguments)
    result, failed = results.opened(arguments.output, bench.asked()), 0
    for row in arguments.rows:
        for variant in arguments.variants:
            for seed in arguments.seeds:
                for name in bench.networks:
                    key = results.row_key(name, row, variant, seed)
                    if key in result["rows"]:
                        continue
                    print(f"== {key}", flush=True)
                    try:
                        result["rows"][key] = bench.measure(name, row, variant, seed)
                    except MimiqError as error:
                        print(f"{key} failed: {error}", file=sys.stderr, flush=True)
                        failed = 1
                    results.write(arguments.output, result)
    return result, failed


class Bench:
    """The networks, each opened once, and the images."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.cache = Cache(arguments.cache)
        self.progress: Progress = shown_progress()
        self.scale = Scale(
            arguments.images, arguments.iterations, arguments.steps, arguments.optimizer
        )
        networks = parse_networks(arguments.network, arguments.calibration)
        self.networks = {network.name: network for network in networks}
        self.models: dict[str, LoadedModel] = {each.name: each.load() for each in networks}
        self.images: dict[str, Images] = {
            name: pooled(arguments.eval, model.num_classes) for name, model in self.models.items()
        }
        self._references: dict[str, Reference] = {}

    def asked(self) -> dict[str, Any]:
        """What a file of these rows begins with."""
        images = next(iter(self.images.values()))
        return {
            "networks": {name: self._described(name) for name in self.networks},
            "recipe": self.arguments.recipe,
            "scale": str(self.scale),
            "evaluation": {
                "sources": [Path(source).name for source in self.arguments.eval],
                "count": len(images),
                "sha256": content_hash(images),
            },
        }

    def measure(self, name: str, row: str, variant: str, seed: int) -> dict[str, Any]:
        """Compile, judge, and keep what the tables need.

        Raises:
            MimiqError: whatever a stage found wrong.
        """
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            job = self._job(name, row, variant, seed, Path(scratch) / "bundle")
            bundle = compile_model(job, self.cache, self.progress).bundle
            judged = self._judge(name, bundle)
            report = bundle.report
            assert report is not None
            assert report.tuning is not None
        return {
            "recipe": job.recipe.to_json(),
            "calibration": {
                key: bundle.manifest["calibration"].get(key) for key in ("kind", "count")
            },
            "accuracy": judged.comparison.to_json(),
            "changed": {"lost": _listed(judged.lost), "gained": _listed(judged.gained)},
            "heldout": report.held_out.to_json() if report.held_out else None,
            "distillation": report.tuning.to_json(),
            "seconds_of_this_run": time.monotonic() - started,
            "mimiq": bundle.manifest["software"]["mimiq"],
            "host": self._host(),
        }

    def _job(self, name: str, row: str, variant: str, seed: int, out: Path) -> Job:
        kind = VARIANTS[variant][0]
        network = self.networks[name]
        own: str | Path = self.arguments.real if kind == "real" else kind
        lender: Network | None = None
        if kind == "synthetic" and network.calibration is not None:
            lender = self.networks.get(network.calibration)
            own = own if lender else Path(network.calibration)
        job = Job(
            model=self.models[name],
            precision=PRECISIONS[row],
            recipe=recipe_of(self.arguments.recipe, row, variant, self.scale),
            out=out,
            calibration=own,
            seed=seed,
            device=self.arguments.device,
            batches=(),
        )
        return calibration_source(job, lender, self.cache, self.progress)

    def _judge(self, name: str, bundle: Bundle) -> Judged:
        if name not in self._references:
            self._references[name] = Reference(
                self.models[name], self.images[name], self.cache, self.progress
            )
        with open_bundle(bundle, spinning=False) as session:
            return self._references[name].judge(session, self.progress)

    def _described(self, name: str) -> dict[str, Any]:
        described = self.models[name].describe()
        kept = {key: described[key] for key in ("architecture", "parameters", "weights_sha256")}
        source = self.networks[name].calibration
        return kept | {"images_of": Path(source).name if source else name}

    def _host(self) -> dict[str, Any]:
        """Of each row: a file may hold rows of several hosts."""
        return {
            "device": describe_device(pick_device(self.arguments.device)),
            "instruction_sets": instruction_sets(),
            "torch": torch.__version__,
        }


def _listed(indices: Any) -> str:
    return " ".join(str(int(index)) for index in indices)


def _parser() -> argparse.ArgumentParser:
    def names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            chosen = text.split(",")
            if unknown := [name for name in chosen if name not in known]:
                raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
            return chosen

        return parse

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add(
        "--network",
        action="append",
        default=[],
        metavar="NAME=MODEL[:WEIGHTS]",
        help="a network to measure; the others are set beside the first",
    )
    add(
        "--calibration",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="synthetic images of a network: a folder, or those of another network by its name",
    )
    add(
        "--eval",
        action="append",
        default=[],
        metavar="FOLDER",
        help="labelled images; several folders are pooled; digits: the embedded held-out ones",
    )
    add("--real", type=Path, help="photographs for the variant real, not of --eval")
    add("--rows", type=names(PRECISIONS), default=list(PRECISIONS)[:5])
    add("--variants", type=names(VARIANTS), default=["default"])
    add("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0])
    add("--recipe", choices=NAMES, default="cpu")
    add("--images", type=int, help="of the calibration set, not the recipe's")
    add("--iterations", type=int, help="of synthesis, not the recipe's")
    add("--steps", type=int, help="of distillation, not the recipe's")
    add("--optimizer", choices=["adamw"], help="of distillation, not the recipe's")
    add("--device", default="auto")
    add("--cache", type=Path, default=default_cache_dir())
    add("--merge", type=Path, nargs="+", metavar="FILE", help="join these files into --output")
    add("--output", type=Path, default=Path("benchmarks/results/accuracy.json"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

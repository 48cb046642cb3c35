"""A session of ONNX Runtime with its profiler on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mimiq.runtime.latency.rest import wait_for_rest

WARM_UP = 3


class Profiled:
    """A session with the profiler on, fixed inputs, and outputs in memory of its own.

    Args:
        graph: a file, or its bytes.
        options: ``onnxruntime.SessionOptions``; changed.
        scratch: where the profiler may write.
        optimized: the graph is as ONNX Runtime's optimisations left it, and stays so.
    """

    def __init__(
        self, graph: str | bytes, options: Any, scratch: Path, *, optimized: bool = True
    ) -> None:
        if optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = ""
        options.enable_profiling = True
        options.profile_file_prefix = str(scratch / "profile")
        cpu = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=cpu)
        self._binding = self._session.io_binding()

    def bind(self, batch: int) -> None:
        """Random inputs; the first run makes the outputs, which later ones write over."""
        generator = np.random.default_rng(0)
        for given in self._session.get_inputs():
            shape = [size if isinstance(size, int) else batch for size in given.shape]
            kind = given.type[len("tensor(") : -1]
            value = (
                generator.standard_normal(shape, np.float32)
                if kind == "float"
                else generator.integers(0, 100, shape).astype(kind)
            )
            self._binding.bind_cpu_input(given.name, value)
        names = [output.name for output in self._session.get_outputs()]
        for name in names:
            self._binding.bind_output(name)
        self.run()
        for name, value in zip(names, self._binding.get_outputs(), strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> None:
        wait_for_rest()
        self._session.run_with_iobinding(self._binding)

    def finish(self) -> tuple[dict[str, float], float, dict[str, Any]]:
        """Least ms of each node, least ms between nodes, and what the profiler says of each."""
        written = Path(self._session.end_profiling())
        events = json.loads(written.read_text())
        written.unlink()
        runs = [event for event in events if event["name"] == "SequentialExecutor::Execute"]
        times: dict[str, list[float]] = {}
        said = {}
        inside: Counter[int] = Counter()
        nodes = [
            event for event in events if event.get("cat") == "Node" and "op_name" in event["args"]
        ]
        for event in nodes:
            if event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                inside[len(times.setdefault(name, []))] += event["dur"]
                times[name].append(event["dur"] / 1e3)
                said[name] = event["args"]
        between = [(run["dur"] - inside[i]) / 1e3 for i, run in enumerate(runs)][WARM_UP:]
        return {name: min(found[WARM_UP:]) for name, found in times.items()}, min(between), said

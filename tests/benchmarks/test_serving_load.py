"""What benchmarks/serving_load.py makes of its rounds, and how it knows a wrong answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlserver_process import model_settings
from serving_load import Server, nearest, runtimes, servers, summary, table

from mimiq.runtime.backends import backend_named
from mimiq.runtime.latency.load import LoadRow


def row(clients: int, throughput: float, p99_ms: float, wrong: int = 0) -> LoadRow:
    return LoadRow(clients, 100, p99_ms / 2, p99_ms / 1.5, p99_ms, throughput, wrong)


ROUNDS = {
    Server("ort", "off", 1): {
        1: [row(1, 10, 100), row(1, 20, 80), row(1, 5, 300)],
        4: [row(4, 30, 200), row(4, 30, 210), row(4, 15, 500)],
    },
    Server("openvino", "on", 0): {
        1: [row(1, 15, 70), row(1, 26, 60), row(1, 9, 90)],
        4: [row(4, 60, 90), row(4, 45, 95), row(4, 60, 99, wrong=2)],
    },
}


def test_rounds_become_medians_extremes_and_ratios_within_a_round() -> None:
    rows = {(each["runtime"], each["clients"]): each for each in summary(ROUNDS)}
    one = rows["openvino", 1]
    assert one["throughput"] == [9, 15, 26]
    assert one["throughput_ratio"] == pytest.approx([1.3, 1.5, 1.8])  # not 15 / 10
    assert one["p99_ms"] == [60, 70, 90]
    assert one["p50_ms"] == [30, 35, 45]
    assert (one["requests"], one["wrong"], one["batching"], one["workers"]) == (300, 0, "on", 0)
    assert rows["ort", 4]["throughput_ratio"] == [1, 1, 1]
    assert rows["openvino", 4]["wrong"] == 2


def result(load_before: float) -> dict[str, Any]:
    return {
        "created": "2026-11-29T12:00:00+00:00",
        "hardware": {"cpu": "a CPU", "cores": 2, "instruction_sets": [], "gpus": []},
        "software": {"python": "3.11", "mlserver": "1.7.1"},
        "protocol": "grpc",
        "threads": 2,
        "batching": {"max_batch_size": 16, "max_batch_time": 0.01},
        "seconds": 4.0,
        "rounds": 3,
        "networks": {
            "deit_t w8a8": {
                "load_before": [load_before, 0, 0],
                "load_after": [3.0, 0, 0],
                "rows": summary(ROUNDS),
            }
        },
    }


def test_the_page_has_a_line_for_each_server_and_says_what_shares_the_cores() -> None:
    page = table(json.loads(json.dumps(result(load_before=1.4))))
    assert "1200 requests, 2 answers wrong." in page
    assert "The clients run on the same 2 cores" in page
    assert "other work shared the cores" in page
    assert "other work" not in table(result(load_before=0.1))
    head, rule, *lines = [line for line in page.splitlines() if line.startswith("|")]
    assert head.count("|") == rule.count("|") == 10
    assert "1 client: a second" in head
    assert "4 clients: a second" in head
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[:3] for line in cells] == [["ort", "off", "1"], ["openvino", "on", "0"]]
    assert cells[1][3:6] == ["15.0 [9.0, 26.0]", "1.50 [1.30, 1.80]", "70 [60, 90]"]
    assert cells[1][6:] == ["60.0 [45.0, 60.0]", "2.00 [1.50, 4.00]", "95 [90, 99]"]


def test_an_answer_belongs_to_the_image_whose_outputs_are_nearest() -> None:
    expected = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    rounded = expected + np.float32(0.02)
    assert [nearest(answer, expected) for answer in rounded] == list(range(64))


def test_every_row_is_served_with_what_its_backend_takes() -> None:
    for extra in runtimes(2).values():
        options = dict(extra)
        assert set(options) - {"backend"} <= backend_named(options.pop("backend")).options
        settings = model_settings(Path("deit_t.mimiq"), extra, {"max_batch_size": 16})
        assert settings["parameters"]["extra"] == extra
        assert settings["max_batch_size"] == 16
        assert Path(settings["parameters"]["uri"]).is_absolute()


def test_every_runtime_is_served_in_every_way() -> None:
    found = servers(["ort", "openvino"], (("off", 1), ("on", 0)))
    assert found == [
        Server("ort", "off", 1),
        Server("openvino", "off", 1),
        Server("ort", "on", 0),
        Server("openvino", "on", 0),
    ]

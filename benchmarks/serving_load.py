"""How fast a served bundle answers: requests a second and latency under 1, 4 and 16 clients.

MLServer serves each bundle for every runtime, with requests joined to batches or not, and with a
worker process or without. All servers of a bundle stand side by side and take turns, some seconds
at each number of clients. Every request is one image, every client waits for its answer before it
asks again, and an answer is wrong where it is not nearest to what its own image gives.

    mimiq-compile deit_t --int8 --recipe fast --weights W -o deit_t.mimiq
    mimiq-compile digits --int8 -o digits.mimiq
    python benchmarks/serving_load.py --bundle deit_t.mimiq --bundle digits.mimiq
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import record
from cpu_tables import counted, numbers
from mlserver_process import MODEL_NAME, served

from mimiq.errors import MimiqError
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.host import describe_hardware, describe_software, host_name
from mimiq.runtime.latency.load import Ask, LoadRow, put_under_load
from mimiq.runtime.opening import open_bundle
from mimiq.runtime.preprocessing import FloatArray
from mimiq.runtime.serving.endpoint import Endpoint
from mimiq.runtime.serving.probes import probe_images
from mimiq.runtime.serving.v2_client import V2Client
from mimiq.runtime.serving.wanted import Wanted

Connect = Callable[[], tuple[Ask, Callable[[], None]]]


@dataclass(frozen=True)
class Server:
    """A line of the table: the runtime, ``on`` or ``off``, and MLServer's ``parallel_workers``."""

    runtime: str
    batching: str
    workers: int


Rounds = dict[Server, dict[int, list[LoadRow]]]  # by clients; one row a round


def main() -> None:
    arguments = _arguments()
    result: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": describe_hardware(),
        "software": describe_software(
            "mimiq", "mlserver", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy"
        ),
        "protocol": arguments.protocol,
        "threads": arguments.threads,
        "batching": batching(arguments.max_batch_size),
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "networks": {},
    }
    try:
        for path in arguments.bundle:
            bundle = Bundle(path)
            name = f"{bundle.model_name} {bundle.precision_label}"
            before = os.getloadavg()
            rounds = measured(bundle, arguments)
            result["networks"][name] = {
                "load_before": before,
                "load_after": os.getloadavg(),
                "rows": summary(rounds),
            }
            record.write(arguments.output, arguments.name, result, table(result))
    except MimiqError as error:
        sys.exit(str(error))
    print(table(result))


def runtimes(threads: int) -> dict[str, dict[str, Any]]:
    """What ``open_bundle`` takes, by the name of the row."""
    openvino = {"backend": "openvino", "threads": threads}
    return {
        "ort": {"backend": "ort", "threads": threads},
        "ort, spinning off": {"backend": "ort", "threads": threads, "spinning": False},
        "openvino": openvino,
        f"openvino, {threads} streams": {**openvino, "streams": threads, "hint": "throughput"},
    }


def servers(runtimes: Sequence[str], ways: Sequence[tuple[str, int]]) -> list[Server]:
    """Every runtime in every way: batching ``on`` or ``off``, and so many workers."""
    return [Server(runtime, joined, workers) for joined, workers in ways for runtime in runtimes]


def batching(max_batch_size: int) -> dict[str, Any]:
    """MLServer's settings that turn it on; the time has to be above 0, and nobody waits for it."""
    return {"max_batch_size": max_batch_size, "max_batch_time": 0.01}


def measured(bundle: Bundle, arguments: argparse.Namespace) -> Rounds:
    """Every round of every server at every level; one more round before them warms up."""
    levels: Sequence[int] = arguments.clients
    kinds = runtimes(arguments.threads)
    found: Rounds = {
        server: {level: [] for level in levels} for server in servers(list(kinds), arguments.ways)
    }
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        clients: dict[Server, Connect] = {}
        known = {name: _known(bundle, extra) for name, extra in kinds.items()}
        for number, server in enumerate(found):
            url = stack.enter_context(
                served(
                    bundle,
                    Path(scratch) / str(number),
                    kinds[server.runtime],
                    batching(arguments.max_batch_size) if server.batching == "on" else {},
                    protocol=arguments.protocol,
                    workers=server.workers,
                )
            )
            wanted = Wanted(url, MODEL_NAME, protocol=arguments.protocol)
            clients[server] = connector(wanted, bundle, *known[server.runtime])
        order = list(clients)
        for number in range(arguments.rounds + 1):
            print(f"{bundle.model_name}: round {number}", file=sys.stderr, flush=True)
            for level in levels:
                for server in order:
                    (row,) = put_under_load(clients[server], (level,), arguments.seconds)
                    if number:
                        found[server][level].append(row)
            order = [*order[1:], order[0]]  # none always follows the same one
    return found


def _known(bundle: Bundle, extra: Mapping[str, Any]) -> tuple[FloatArray, FloatArray]:
    """Images (N, C, H, W), normalised, and what the runtime answers to each alone (N, width)."""
    with open_bundle(bundle, **extra) as session:
        probes = probe_images(session, bundle.preprocessing, bundle.output)
        images = bundle.preprocessing.normalize(probes.images)
        return images, np.concatenate([session.run(image[None]) for image in images])


def connector(wanted: Wanted, bundle: Bundle, images: FloatArray, expected: FloatArray) -> Connect:
    """What makes a client: it asks one image at a time, and knows whose answer it got.

    Args:
        images: normalised, (N, C, H, W).
        expected: the outputs of the same runtime for each of them, (N, width).
    """

    def connect() -> tuple[Ask, Callable[[], None]]:
        client = V2Client(wanted.url, wanted.protocol, wanted.timeout_s)
        endpoint = Endpoint(client, wanted, bundle)

        def ask(number: int) -> bool:
            place = number % len(images)
            (answer,) = endpoint(images[place : place + 1])
            return nearest(answer, expected) == place

        return ask, client.close

    return connect


def nearest(answer: FloatArray, expected: FloatArray) -> int:
    """Whose answer it is: the row of ``expected`` (N, width) at the least distance."""
    return int(np.square(expected - answer).sum(1).argmin())


def summary(rounds: Rounds) -> list[dict[str, Any]]:
    """A row for every server and level: medians and extremes over rounds.

    ``throughput_ratio`` is against the first server at the same level, round by round.
    """
    first = next(iter(rounds.values()))
    rows = []
    for server, levels in rounds.items():
        for clients, found in levels.items():
            ratios = [
                one.throughput / base.throughput
                for one, base in zip(found, first[clients], strict=True)
            ]
            rows.append(
                {
                    **asdict(server),
                    "clients": clients,
                    "requests": sum(row.requests for row in found),
                    "wrong": sum(row.wrong for row in found),
                    "throughput": _spread([row.throughput for row in found]),
                    "throughput_ratio": _spread(ratios),
                    "p50_ms": _spread([row.p50_ms for row in found]),
                    "p99_ms": _spread([row.p99_ms for row in found]),
                }
            )
    return rows


def _spread(values: Sequence[float]) -> list[float]:
    """Least, median and greatest."""
    return [min(values), statistics.median(values), max(values)]


def table(result: Mapping[str, Any]) -> str:
    """Markdown: a table for each network, a line for each server, columns by the clients."""
    software = ", ".join(f"{name} {version}" for name, version in result["software"].items())
    size = result["batching"]["max_batch_size"]
    lines = [
        "# A served bundle under load",
        "",
        f"{host_name(result['hardware'], 'onnxruntime-cpu')}; {software}; "
        f"{result['created'][:10]}. `python benchmarks/serving_load.py --bundle …`",
        "",
        f"MLServer, {result['protocol']}, requests of one image, {result['threads']} threads for "
        "the runtime. The clients run on the same "
        f"{result['hardware']['cores']} cores as the server and take a share of them: on a host of "
        "its own a server does better than here. Batching is `max_batch_size` "
        f"{size}: requests that wait run together.",
        "",
        f"All servers take turns, {result['rounds']} rounds of {result['seconds']:g} s each. A "
        "cell is the median over rounds, with the least and the greatest: requests a second; then "
        "against the first line, round by round; and the 99th percentile of the latency in "
        "milliseconds.",
    ]
    for name, network in result["networks"].items():
        rows = network["rows"]
        levels = list(dict.fromkeys(row["clients"] for row in rows))
        before, after = network["load_before"][0], network["load_after"][0]
        heads = "".join(f" {counted(n, 'client')}: a second | × | p99 ms |" for n in levels)
        lines += [
            "",
            f"## {name}",
            "",
            f"Load average before {before:.1f}, after {after:.1f}, this benchmark's own included"
            + (": other work shared the cores." if before > 0.5 else "."),
            f"{sum(row['requests'] for row in rows)} requests, "
            f"{sum(row['wrong'] for row in rows)} answers wrong.",
            "",
            f"| runtime | batching | workers |{heads}",
            "|---|---|---|" + "---|---|---|" * len(levels),
        ]
        for key in dict.fromkeys(_line(row) for row in rows):
            mine = [row for row in rows if _line(row) == key]
            cells = "".join(
                f" {_cell(row['throughput'], 1)} | {_cell(row['throughput_ratio'], 2)} | "
                f"{_cell(row['p99_ms'], 0)} |"
                for row in mine
            )
            lines.append(f"| {' | '.join(key)} |{cells}")
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("runtime", "batching", "workers"))


def _cell(spread: Sequence[float], digits: int) -> str:
    least, median, greatest = (f"{value:.{digits}f}" for value in spread)
    return f"{median} [{least}, {greatest}]"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--clients", type=numbers, default=(1, 4, 16), help="e.g. 1,4,16")
    parser.add_argument("--threads", type=int, default=2, help="of the runtime")
    parser.add_argument("--protocol", choices=("grpc", "http"), default="grpc")
    parser.add_argument("--max-batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of a server at a level, a round")
    parser.add_argument(
        "--ways", type=_ways, default="off/1,on/1,off/0", help="batching/workers: off/1,on/1,off/0"
    )
    parser.add_argument("--name", default="serving_load", help="of the files of results")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


def _ways(text: str) -> tuple[tuple[str, int], ...]:
    pairs = [part.split("/") for part in text.split(",")]
    if any(joined not in ("on", "off") for joined, _ in pairs):
        raise ValueError
    return tuple((joined, int(workers)) for joined, workers in pairs)


if __name__ == "__main__":
    main()

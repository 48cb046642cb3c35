"""For all tests: a cache of their own, GPU tests only where there is one, compiled bundles."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from compiled import Compile, Compiled

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes of two threads each would wait for each other. Read when torch is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from mimiq.runtime.host import cuda_driver_present

    if cuda_driver_present():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU and driver")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing is read from the user's cache, and nothing left in it; shared by the processes."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIMIQ_CACHE", str(cache))
        patch.delenv("MIMIQ_DEBUG", raising=False)
        yield cache


@pytest.fixture(scope="session")
def compile_digits(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles the embedded model through the command line, each set of flags once a session."""
    from click.testing import CliRunner

    from mimiq.cli import compile_main

    done: dict[tuple[str, ...], Compiled] = {}

    def run(*flags: str) -> Compiled:
        if flags not in done:
            out = tmp_path_factory.mktemp("bundles") / "digits.mimiq"
            arguments = ["digits", *flags, "--json", "-o", str(out)]
            answer = CliRunner().invoke(compile_main, arguments)
            assert answer.exit_code == 0, answer.stderr
            done[flags] = Compiled(out, json.loads(answer.stdout), answer.stderr)
        return done[flags]

    return run

"""For all tests: a cache of their own, GPU tests only where there is one, compiled bundles."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from compiled import Compile, Compiled

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes of two threads each would wait for each other. Read when torch is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# The files that take longest: begun first, else one of them would keep a process alone at the end.
# What others need of the compiled digits is then there, too.
_LONGEST = (
    "test_end_to_end.py",
    "test_cli_sensitivity.py",
    "test_families.py",
    "test_tensorrt_golden.py",
    "test_slim_install.py",
    "test_kills.py",
    "test_cli_interruption.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="also what takes minutes or hours")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from mimiq.runtime.host import cuda_driver_present

    if not config.getoption("--nightly"):
        long = [item for item in items if "nightly" in item.keywords]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if "nightly" not in item.keywords]
    rank = {name: index for index, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
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
def compile_digits(own_cache: Path) -> Compile:
    """Compiles the embedded model through the command line, each set of flags once.

    Once for all processes of a session, which therefore leave the bundles as they are.
    """
    from click.testing import CliRunner
    from filelock import FileLock

    from mimiq.cli import compile_main

    folder = own_cache.with_name("compiled")
    folder.mkdir(exist_ok=True)

    def run(*flags: str) -> Compiled:
        name = "digits" + "".join(flags)
        out, said = folder / f"{name}.mimiq", folder / f"{name}.said.json"
        with FileLock(folder / f"{name}.lock"):
            if not said.exists():
                arguments = ["digits", *flags, "--json", "-o", str(out)]
                answer = CliRunner().invoke(compile_main, arguments)
                assert answer.exit_code == 0, answer.stderr
                said.write_text(json.dumps([answer.stdout, answer.stderr]))
        stdout, stderr = json.loads(said.read_text())
        return Compiled(out, json.loads(stdout), stderr)

    return run

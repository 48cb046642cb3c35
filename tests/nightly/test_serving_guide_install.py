"""The serving guide from nothing: its install lines in a fresh environment, then every block.

pytest -n 0 --nightly tests/nightly/test_serving_guide_install.py

Downloads what a user's `pip install` does, PyTorch included. The wheel of this tree stands in for
the package's name, free ports for the documented ones; nothing else of a line is changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from ports import free_ports
from wheels import ROOT, built_wheel

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform == "win32", reason="the guide's lines are for a POSIX shell"),
]

GUIDE = ROOT / "docs" / "serving.md"
INSTALLS = ("[compile,serve]", "[mlserver]")
MINUTES = 20


def shell(text: str, folder: Path, environment: Mapping[str, str]) -> str:
    """What lines print, run as a person would type them."""
    done = subprocess.run(
        ["bash", "-e", "-c", text],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=60 * MINUTES,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_guide_runs_word_for_word_in_a_fresh_environment(tmp_path: Path) -> None:
    guide = GUIDE.read_text("utf-8")
    wheel = built_wheel(tmp_path / "build")
    fresh = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(fresh)], check=True)
    http, grpc, metrics = free_ports(3)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment = kept | {
        "PATH": f"{fresh / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(fresh),
        "MLSERVER_HTTP_PORT": str(http),
        "MLSERVER_GRPC_PORT": str(grpc),
        "MLSERVER_METRICS_PORT": str(metrics),
    }
    for extras in INSTALLS:
        line = f"pip install 'mimiq-vit{extras}'"
        assert line in guide
        shell(line.replace("mimiq-vit", str(wheel)), tmp_path, environment)
    blocks = dict(re.findall(r"```(?:sh|python) test=(\w+)\n(.*?)```", guide, re.S))

    def here(text: str) -> str:
        return text.replace("localhost:8080", f"localhost:{http}").replace(
            "localhost:8081", f"localhost:{grpc}"
        )

    for name in ("compile", "pack"):
        shell(blocks[name], tmp_path, environment)
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {blocks['serve'].strip()}"],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        checks = here(blocks["check"]).replace("mimiq check", "mimiq check --wait 90")
        shell(checks, tmp_path, environment)
        (tmp_path / "client.py").write_text(here(blocks["client"]), "utf-8")
        answer = shell("python client.py", tmp_path, environment)
        assert re.match(r"\[\[b'\d' b'\d' b'\d'\]\] \[\[", answer)
    except BaseException:
        print((tmp_path / "server.log").read_text(errors="replace")[-4000:])
        raise
    finally:
        server.terminate()
        server.wait(60)

"""What the host says of itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mimiq.runtime import host as hardware


def test_description_is_plain_and_plausible() -> None:
    found = json.loads(json.dumps(hardware.describe_hardware()))
    assert set(found) == {"cpu", "cores", "instruction_sets", "memory_gib", "gpus", "os"}
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["memory_gib"] is None or found["memory_gib"] > 0
    assert isinstance(found["gpus"], list)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo (Linux)")
def test_instruction_sets_agree_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sources: the kernel's list, and numpy's own look at the processor."""
    from_kernel = set(hardware.instruction_sets())
    monkeypatch.setattr(hardware, "_cpuinfo", lambda *keys: "")
    from_numpy = set(hardware.instruction_sets())
    assert from_numpy <= from_kernel
    simd = np.show_config(mode="dicts")["SIMD Extensions"]  # type: ignore[index]
    known = {*simd["baseline"], *simd["found"]}
    assert ("avx2" in from_kernel) == bool({"AVX2", "X86_V3"} & known)


def test_a_container_quota_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(hardware, "Path", lambda name: quota)
    for text, cores in (("max 100000", 64), ("250000 100000", 3), ("50000 100000", 1), ("?", 64)):
        quota.write_text(text)
        assert hardware.usable_cores() == cores
    quota.unlink()
    assert hardware.usable_cores() == 64


def test_software() -> None:
    found = hardware.describe_software("numpy", "no-such-distribution-anywhere")
    assert found["numpy"] == np.__version__
    assert set(found) == {"python", "numpy"}
    assert "mimiq" in hardware.describe_software()

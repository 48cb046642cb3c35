"""Run a command with ONNX Runtime and OpenVINO held to the kernels of an older CPU.

Neither has an option for it, and ``ONEDNN_MAX_CPU_ISA`` reaches a part of OpenVINO alone. So copies
of both packages ask an older CPU: their CPUID instructions are replaced, and ``older_cpu.c``
answers. Which kernel runs, and whether it saturates, is that of such a CPU; its speed beside fp32
may be another on older cores. Needs Linux on x86-64, a C compiler and binutils.

    python benchmarks/older_cpu.py avx2 -- python benchmarks/cpu_serving.py …
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("older_cpu.c")
PACKAGES = ("onnxruntime", "openvino")
# What each level has not, as /proc/cpuinfo names it.
_AVX512 = r"avx512\w*|amx_\w+"
LEVELS = {
    "avx2": rf"{_AVX512}|avx_vnni\w*|avx_ne_convert|avx_ifma",
    "avx-vnni": _AVX512,
    "avx512": r"avx512_vnni|avx512_bf16|avx512_fp16|amx_\w+|avx_vnni\w*|avx_ne_convert|avx_ifma",
    "avx512-vnni": r"avx512_bf16|avx512_fp16|amx_\w+|avx_vnni\w*|avx_ne_convert|avx_ifma",
}
_CPUID = re.compile(r"^\s*([0-9a-f]+):\t0f a2\s+\tcpuid", re.MULTILINE)
_SECTION = re.compile(
    r"^\s*\d+ (\S+)\s+[0-9a-f]+\s+([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)", re.MULTILINE
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("level", choices=LEVELS)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        environment = older_environment(arguments.level, Path(scratch))
        sys.exit(subprocess.run(arguments.command, env=environment, check=False).returncode)


def older_environment(level: str, folder: Path) -> dict[str, str]:
    """This process's environment, with what makes its children see the older CPU.

    Args:
        level: one of :data:`LEVELS`.
        folder: an empty folder; it must stay as long as the children run.
    """
    preload = folder / "older_cpu.so"
    command = ("cc", "-O1", "-shared", "-fPIC", str(SOURCE), "-o", str(preload), "-ldl")
    subprocess.run(command, check=True)
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            continue
        copy = folder / "packages" / package
        shutil.copytree(
            Path(found.origin).parent, copy, ignore=shutil.ignore_patterns("*cuda*.so*")
        )
        for library in copy.rglob("*.so*"):
            replace_cpuid(library)
    told = folder / "cpuinfo"
    told.write_text(re.sub(rf"\b(?:{LEVELS[level]})\b ?", "", Path("/proc/cpuinfo").read_text()))
    paths = (str(folder / "packages"), os.environ.get("PYTHONPATH", ""))
    return os.environ | {
        "OLDER_CPU": level,
        "OLDER_CPU_INFO": str(told),
        "LD_PRELOAD": str(preload),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


def replace_cpuid(library: Path) -> int:
    """Replace the CPUID instructions of a library in place; how many there were."""
    if b"\x0f\xa2" not in library.read_bytes():
        return 0
    listed = _objdump("-d", library)
    sections = [
        (int(address, 16), int(offset, 16))
        for _, address, offset in _SECTION.findall(_objdump("-h", library))
    ]
    code = bytearray(library.read_bytes())
    found = [int(address, 16) for address in _CPUID.findall(listed)]
    for address in found:
        start, offset = max(section for section in sections if section[0] <= address)
        place = address - start + offset
        if code[place : place + 2] != b"\x0f\xa2":
            raise RuntimeError(f"{library}: no CPUID at {address:#x}.")
        code[place : place + 2] = b"\x0f\x04"
    library.write_bytes(code)
    return len(found)


def _objdump(option: str, library: Path) -> str:
    command = ("objdump", option, str(library))
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()

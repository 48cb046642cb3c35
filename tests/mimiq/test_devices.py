"""Choice of device and number format."""

from __future__ import annotations

import pytest
import torch

from mimiq import devices
from mimiq.devices import describe_device, fast_dtype, pick_device
from mimiq.errors import BadInput, EnvironmentLacks

CPU = torch.device("cpu")


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "", "mps", "cuda:x", "cpu!"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="unknown"):
        pick_device(name)


def test_absent_cuda_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(EnvironmentLacks, match="0 CUDA devices"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(EnvironmentLacks, match="cuda:2"):
        pick_device("cuda:2")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_f": True}, None),
    ],
)
def test_bf16_on_a_cpu_that_multiplies_it(monkeypatch, flags, wanted) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert fast_dtype(CPU) == wanted


@pytest.mark.parametrize(
    ("allowed", "wanted"),
    [("AVX2", None), ("AVX512_CORE_VNNI", None), ("avx512_core_bf16", torch.bfloat16)],
)
def test_no_bf16_where_onednn_is_told_of_a_lesser_cpu(monkeypatch, allowed, wanted) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert fast_dtype(CPU) == wanted


def test_bf16_by_the_kernels_list_where_torch_does_not_say(monkeypatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(devices, "instruction_sets", lambda: ["avx2", "amx_bf16"])
    assert fast_dtype(CPU) == torch.bfloat16
    monkeypatch.setattr(devices, "instruction_sets", lambda: ["avx2"])
    assert fast_dtype(CPU) is None


@pytest.mark.parametrize(("capability", "wanted"), [((7, 5), None), ((8, 0), torch.bfloat16)])
def test_bf16_on_gpus_since_ampere(monkeypatch, capability, wanted) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fast_dtype(torch.device("cuda")) == wanted


def test_a_device_has_a_name() -> None:
    assert f"{torch.get_num_threads()} threads" in describe_device(CPU)

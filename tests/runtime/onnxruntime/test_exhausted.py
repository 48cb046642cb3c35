"""Opening a graph where memory or descriptors run out, or with a name that ONNX Runtime cannot
take: nothing of it is the file's fault.
"""

from __future__ import annotations

import importlib.abc
import os
import sys
from pathlib import Path

import pytest
from open_files import files_left
from runtime_models import MakeModel

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime.onnxruntime.graph import import_onnxruntime, open_graph

pytest.importorskip("onnx")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (RuntimeError("std::bad_alloc"), EnvironmentLacks, "memory is exhausted"),
        (MemoryError("std::bad_alloc"), EnvironmentLacks, "memory is exhausted"),
        (RuntimeError("failed:system error number 24"), EnvironmentLacks, "Too many files"),
        (RuntimeError("Protobuf parsing failed."), BadInput, "Protobuf parsing failed"),
    ],
)
def test_memory_that_ran_out_while_opening(
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[Exception],
    said: str,
) -> None:
    import onnxruntime

    def refuse(*_: object, **__: object) -> None:
        raise error

    model = make_model()
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(kind, match=said) as caught:
        open_graph(model, device="cpu")
    assert ("damaged" in str(caught.value)) == (kind is BadInput)


@pytest.mark.parametrize("exhausted", [True, False])
def test_a_first_run_without_memory_does_not_end_in_sums_that_are_not_exact(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, exhausted: bool
) -> None:
    """Of other failures another form is opened, for ONNX Runtime cannot run the exact one."""
    import onnxruntime

    def run(*_: object) -> None:
        raise RuntimeError("Failed to allocate memory" if exhausted else "no such kernel")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
    model = make_model(quantized=True)
    if exhausted:
        with pytest.raises(EnvironmentLacks, match="memory"):
            open_graph(model, device="cpu", exact=True)
    else:
        assert open_graph(model, device="cpu", exact=True).backend == "onnxruntime-cpu"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_graph_without_a_free_descriptor(make_model: MakeModel) -> None:
    model = make_model()
    with files_left(0), pytest.raises(EnvironmentLacks, match="Too many files"):
        open_graph(model, device="cpu")


def test_onnxruntime_that_finds_no_memory_needs_no_other_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name == "onnxruntime":
                raise ImportError("x.so: failed to map segment from shared object")

    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(sys, "meta_path", [Full(), *sys.meta_path])
    with pytest.raises(EnvironmentLacks, match="memory is exhausted") as caught:
        import_onnxruntime()
    assert "pip install" not in caught.value.next_step


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux")
def test_a_path_that_is_not_utf8(make_model: MakeModel, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.onnx"))
    make_model().rename(path)
    with pytest.raises(BadInput, match=r"xff\.onnx': this path is not UTF-8") as raised:
        open_graph(path, device="cpu")
    assert "Rename" in raised.value.next_step

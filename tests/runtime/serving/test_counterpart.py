"""A served model is compared with the bundle in the runtime that the server names."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from runtime_models import MakeBundle

from mimiq.errors import BadInput
from mimiq.runtime.serving.counterpart import open_counterpart

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="not installed: openvino")


def _opened(make_bundle: MakeBundle, platform: str, backend: str = "auto") -> str:
    with open_counterpart(make_bundle(), platform, backend) as session:
        return session.backend


@pytest.fixture
def openvino_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimiq.runtime.latency.tuned.fastest", lambda bundle: "openvino")


@needs_openvino
@pytest.mark.usefixtures("openvino_is_fastest")
@pytest.mark.parametrize(
    "platform", ["mimiq_onnxruntime-cpu", "mimiq_onnxruntime", "onnxruntime_onnx"]
)
def test_onnx_runtime_is_compared_with_onnx_runtime(make_bundle: MakeBundle, platform: str) -> None:
    assert _opened(make_bundle, platform).startswith("onnxruntime-")


@needs_openvino
@pytest.mark.parametrize("platform", ["mimiq_openvino-cpu", "openvino", "OpenVINO"])
def test_openvino_is_compared_with_openvino(make_bundle: MakeBundle, platform: str) -> None:
    assert _opened(make_bundle, platform) == "openvino-cpu"


@needs_openvino
@pytest.mark.usefixtures("openvino_is_fastest")
@pytest.mark.parametrize("platform", ["", "pytorch_libtorch", "mimiq_", "mimiq_of-next-year"])
def test_an_unknown_server_is_compared_with_what_auto_opens(
    make_bundle: MakeBundle, platform: str
) -> None:
    assert _opened(make_bundle, platform) == "openvino-cpu"


@pytest.mark.parametrize("platform", ["mimiq_tensorrt-rtx", "mimiq_openvino-cpu"])
def test_what_this_host_has_not_got_is_compared_with_what_it_has(
    make_bundle: MakeBundle, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimiq.runtime.openvino.backend.is_installed", lambda: False)
    assert _opened(make_bundle, platform).startswith("onnxruntime-")


@needs_openvino
def test_whoever_names_a_backend_gets_it(make_bundle: MakeBundle) -> None:
    assert _opened(make_bundle, "mimiq_onnxruntime-cpu", "openvino") == "openvino-cpu"


def test_a_misspelt_backend_is_told(make_bundle: MakeBundle) -> None:
    with pytest.raises(BadInput, match="unknown"):
        _opened(make_bundle, "mimiq_onnxruntime-cpu", "openvinno")

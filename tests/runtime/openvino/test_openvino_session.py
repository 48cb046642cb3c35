"""OpenVINO: the same answers as ONNX Runtime's, kept networks, and what is said where it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from compiled import INT4, INT8, WEIGHT_ONLY, Compile
from runtime_models import CLASSES, SIZE, MakeBundle, MakeModel

from mimiq.cli import main
from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.models.digits import digits_heldout
from mimiq.runtime import Bundle, Session, open_bundle
from mimiq.runtime.evaluation.held_out import relative_error
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.openvino import weights
from mimiq.runtime.openvino.backend import OPENVINO
from mimiq.runtime.openvino.session import OpenVINOSession
from mimiq.runtime.preprocessing import FloatArray

openvino = pytest.importorskip("openvino", reason="openvino is not installed (extra openvino)")
onnx = pytest.importorskip("onnx")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where networks are kept, empty."""
    monkeypatch.setenv("MIMIQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


def images(batch: int, seed: int = 0) -> FloatArray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((batch, 3, SIZE, SIZE), dtype=np.float32)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("It is on the disk.")


def kept(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("*")}


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_logits_equal_the_arithmetic(make_model: MakeModel, batch: int) -> None:
    path, given = make_model(), images(batch)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    with OpenVINOSession(path, threads=1, floats="float32") as session:
        assert isinstance(session, Session)
        assert session.backend == "openvino-cpu"
        assert (session.input_shape, session.num_classes) == ((3, SIZE, SIZE), CLASSES)
        logits = session.run(given)
    assert (logits.dtype, logits.shape) == (np.float32, (batch, CLASSES))
    expected = given.reshape(batch, 3 * SIZE * SIZE) @ values["weight"] + values["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [INT8, INT4, WEIGHT_ONLY])
def test_it_answers_as_onnx_runtime_does(compile_digits: Compile, flags: tuple[str, ...]) -> None:
    """Two roundings of one network differ by about twice what one of them loses."""
    bundle = Bundle(compile_digits(*flags).path)
    assert bundle.report is not None
    assert bundle.report.held_out is not None
    lost = bundle.report.held_out.logit_error
    pixels = digits_heldout()[0][:64]
    with open_bundle(bundle, "ort", threads=1) as session:
        theirs = session.run(pixels)
    for options in ({}, {"own_batches": 0}, {"floats": "float32"}):
        with open_bundle(bundle, "openvino", threads=1, **options) as session:
            assert relative_error(session.run(pixels), theirs) < 2 * lost


@pytest.mark.slow
@pytest.mark.parametrize("flags", [INT8, INT4, WEIGHT_ONLY])
def test_weights_are_expanded_where_nothing_else_is_quantized(
    compile_digits: Compile, cache: Path, flags: tuple[str, ...]
) -> None:
    path = compile_digits(*flags).path / "model.onnx"
    network = openvino.Core().read_model(path)
    assert weights.are_all_that_is_quantized(network) == (flags == WEIGHT_ONLY)
    if flags != WEIGHT_ONLY:
        return
    assert {"i4", "i8"} & constants(network)
    weights.expand(network)
    assert not {"i4", "i8"} & constants(network)
    pixels = Bundle(path.parent).preprocessing.normalize(digits_heldout()[0][:16])
    with OnnxRuntimeSession(path, device="cpu", threads=1) as session:
        expected = session.run(pixels)
    for way, tolerance in (("compressed", 0.1), ("expanded", 1e-3)):  # kernels of INT4 round, too
        with OpenVINOSession(path, threads=1, floats="float32", weights=way) as session:
            np.testing.assert_allclose(session.run(pixels), expected, atol=tolerance)
    assert len(kept(cache)) == 2 * 2  # another network each, of one image and of all


def constants(network: Any) -> set[str]:
    """The types of what a network keeps."""
    nodes = [node for node in network.get_ops() if node.get_type_name() == "Constant"]
    return {node.get_output_element_type(0).get_type_name() for node in nodes}


@pytest.mark.slow
def test_commands_take_it_by_name(compile_digits: Compile) -> None:
    bundle = str(compile_digits(*INT8).path)
    flags = ["--backend", "openvino", "--against", "openvino", "--eval-limit", "50"]
    answer = CliRunner().invoke(main, ["eval", bundle, *flags])
    assert answer.exit_code == 0, answer.output
    assert "openvino-cpu" in answer.stdout
    flags = ["--backend", "openvino", "--threads", "1", "--batches", "1", "--seconds", "0.1"]
    answer = CliRunner().invoke(main, ["bench", bundle, *flags, "--json"])
    assert '"openvino-cpu"' in answer.stdout, answer.output


def test_what_was_compiled_is_kept(
    make_bundle: MakeBundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, given = make_bundle(quantized=True), images(3)
    with open_bundle(bundle, "openvino") as session:
        answers = session.run(given)
    first = kept(cache)
    assert len(first) == 2  # of single images, and of three

    with monkeypatch.context() as patch:
        patch.setattr(openvino.Core, "compile_model", never)
        patch.setattr(openvino.Core, "read_model", never)
        with open_bundle(bundle, "openvino") as session:
            np.testing.assert_array_equal(session.run(given), answers)
    for options in ({"floats": "float32"}, {"threads": 1}):  # each is another network
        before = kept(cache)
        open_bundle(bundle, "openvino", **options).close()
        assert len(kept(cache) - before) == 1
    before = kept(cache)
    open_bundle(make_bundle("other.mimiq", quantized=True, seed=1), "openvino").close()
    assert len(kept(cache) - before) == 1
    open_bundle(bundle, "openvino", hint="throughput", cache=False).close()
    assert len(kept(cache) - before) == 1


@pytest.mark.parametrize("damage", [b"", b"no line of JSON", None])
def test_a_damaged_network_is_compiled_again(
    make_bundle: MakeBundle, cache: Path, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, given = make_bundle(), images(1)
    with open_bundle(bundle, "openvino") as session:
        answers = session.run(given)
    (network,) = cache.iterdir()
    network.write_bytes(network.read_bytes()[:-1] if damage is None else damage)
    open_bundle(bundle, "openvino").close()
    monkeypatch.setattr(openvino.Core, "compile_model", never)
    with open_bundle(bundle, "openvino") as session:
        np.testing.assert_array_equal(session.run(given), answers)


def test_no_place_to_keep_it_does_not_matter(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIMIQ_CACHE", str(tmp_path / "file"))
    with open_bundle(make_bundle(), "openvino") as session:
        assert session.run(images(1)).shape == (1, CLASSES)


def test_sizes_beyond_the_first_share_a_network(make_bundle: MakeBundle, cache: Path) -> None:
    bundle = make_bundle()
    with open_bundle(bundle, "openvino", own_batches=2) as session:
        for batch in (1, 2, 3, 4, 2):
            whole = session.run(images(batch))
            np.testing.assert_allclose(session.run(images(batch)[:1]), whole[:1], atol=0.05)
    assert len(kept(cache)) == 3


def test_many_may_ask_at_a_time(make_bundle: MakeBundle) -> None:
    with (
        open_bundle(make_bundle(), "openvino", streams=2, threads=2) as session,
        ThreadPoolExecutor(4) as pool,
    ):
        given = [images(1 + seed % 3, seed) for seed in range(24)]
        expected = [session.run(each) for each in given]
        for found, wanted in zip(pool.map(session.run, given), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_fixed_batch_is_the_only_one(make_model: MakeModel) -> None:
    with OpenVINOSession(make_model(batch=2)) as session:
        assert session.run(images(2)).shape == (2, CLASSES)
        with pytest.raises(BadInput, match="batches of 2 images, not 1"):
            session.run(images(1))


def test_a_closed_session_says_so(make_bundle: MakeBundle) -> None:
    session = open_bundle(make_bundle(), "openvino")
    session.close()
    session.close()
    with pytest.raises(BadInput, match="closed"):
        session.run(images(1))


def test_a_file_that_is_none_is_named(tmp_path: Path, make_model: MakeModel) -> None:
    with pytest.raises(BadInput, match=r"absent.onnx cannot be read"):
        OpenVINOSession(tmp_path / "absent.onnx")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(make_model().read_bytes()[:1000])
    with pytest.raises(BadInput, match=r"cut.onnx cannot be opened by OpenVINO 20\d\d"):
        OpenVINOSession(cut)
    unknown = tmp_path / "unknown.onnx"
    model = onnx.load(make_model())
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, unknown)
    with pytest.raises(BadInput, match="NoSuchOperator"):
        OpenVINOSession(unknown)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"threads": 0}, "0 threads"),
        ({"streams": -1}, "-1 streams"),
        ({"streams": "two"}, "two streams"),
        ({"hint": "speed"}, "`hint=speed` is unknown"),
        ({"floats": "int8"}, "`floats=int8` is unknown"),
        ({"weights": "int8"}, "`weights=int8` is unknown"),
        ({"spinning": False}, "takes no 'spinning'"),
    ],
)
def test_options_out_of_range(
    make_bundle: MakeBundle, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadInput, match=problem):
        open_bundle(make_bundle(), "openvino", **options)


def test_where_it_is_missing_or_too_old(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    assert OPENVINO.why_not() is None
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "__version__", "2024.6.0-17404-4c0f47d2335-releases/2024/6")
        with pytest.raises(EnvironmentLacks, match=r"OpenVINO 2024.6.0 is too old"):
            open_bundle(bundle, "openvino")
        lack = OPENVINO.why_not()
        assert lack is not None
        assert "mimiq-vit[openvino]" in lack.next_step
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EnvironmentLacks, match="OpenVINO is not installed") as caught:
        open_bundle(bundle, "openvino")
    assert "mimiq-vit[openvino]" in caught.value.next_step
    assert OPENVINO.why_not() is not None
    with open_bundle(bundle) as session:
        assert session.backend == "onnxruntime-cpu"


def test_nothing_is_told_to_openvinos_makers(make_bundle: MakeBundle, tmp_path: Path) -> None:
    program = (
        "import multiprocessing, sys; from mimiq.runtime import open_bundle; "
        "open_bundle(sys.argv[1], 'openvino'); "
        "print('openvino_telemetry' in sys.modules, multiprocessing.active_children())"
    )
    home = tmp_path / "home"
    home.mkdir()
    # As on a user's host: on one of a CI it sends nothing by itself.
    host = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD")}
    said = subprocess.run(
        (sys.executable, "-c", program, str(make_bundle().path)),
        env={**host, "HOME": str(home), "MIMIQ_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.split() == ["False", "[]"]
    assert not list(home.rglob("*ga*"))
    assert not (home / "intel").exists()


def test_the_first_runs_of_a_process_may_be_two_at_once(make_bundle: MakeBundle) -> None:
    # What the binding looks up at its first run takes long here, so that two threads meet there.
    program = """
import sys, threading, time
import numpy as np
import numpy.lib
from mimiq.runtime import open_bundle

whole = numpy.lib.NumpyVersion.__init__
def slow(self, *given):
    time.sleep(0.5)
    whole(self, *given)
numpy.lib.NumpyVersion.__init__ = slow
session = open_bundle(sys.argv[1], "openvino", threads=1)
images = np.zeros((1, *session.input_shape), np.float32)
threads = [threading.Thread(target=session.run, args=(images,)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("both")
"""
    command = (sys.executable, "-c", program, str(make_bundle().path))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["both"]

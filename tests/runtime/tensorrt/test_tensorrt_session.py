"""A TensorRT session's own logic, on fakes of the library and of CUDA (see tensorrt_fake)."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorrt_fake import (
    CLASSES,
    MAX,
    SHAPE,
    SIZE,
    FakeCuda,
    FakeEngine,
    expected,
    fake_library,
    open_fake,
)
from tensorrt_sessions import OnDevice, Open, images

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.session import Session
from mimiq.runtime.tensorrt.products import RTX
from mimiq.runtime.tensorrt.session import TensorRTSession


def test_is_a_session(opened: Open) -> None:
    session, _, _ = opened()
    assert isinstance(session, Session)
    assert session.backend == "tensorrt-rtx"
    assert session.input_shape == SHAPE
    assert session.num_classes == CLASSES
    assert session.max_batch == MAX


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3 * MAX + 1), min_size=1, max_size=6), smallest=st.integers(1, 3)
)
def test_any_sequence_of_batches(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], smallest: int
) -> None:
    """Whatever batches come, in whatever order: split, padded or replayed, the logits are right."""
    folder = tmp_path_factory.mktemp("session")
    session, engine, cuda = open_fake(folder, batches=(smallest, 3, MAX))
    with session:
        for seed, size in enumerate(sizes):
            batch = images(size, seed)
            logits = session.run(batch)
            assert logits.dtype == np.float32
            np.testing.assert_array_equal(logits, expected(batch).reshape(size, CLASSES))
    assert all(smallest <= size <= MAX for size in engine.batch_log)
    assert not cuda.buffers
    assert not cuda.pinned
    assert cuda.open_handles == 0


def test_larger_batches_are_split(opened: Open) -> None:
    session, engine, _ = opened()
    session.run(images(2 * MAX + 3))
    assert engine.batch_log == [MAX, MAX, 3]  # twice MAX: once run, once captured


def test_graphs_are_captured_per_batch_size(opened: Open) -> None:
    session, engine, cuda = opened()
    for repeat in range(4):
        for batch in (1, 5):
            given_images = images(batch, repeat)
            np.testing.assert_array_equal(session.run(given_images), expected(given_images))
    assert cuda.counts["capture"] == 2
    assert cuda.counts["launch"] == 6  # three of four runs each
    assert engine.runs == 4  # each once run and once captured
    assert engine.contexts == 2  # a graph's context keeps its shapes


def test_contexts_of_old_batch_sizes_are_dropped(opened: Open) -> None:
    session, engine, cuda = opened(batches=(1, 8, 64))
    for _ in range(2):
        for batch in range(1, 31):
            given_images = images(batch, batch)
            np.testing.assert_array_equal(session.run(given_images), expected(given_images))
    assert engine.contexts > 30  # some were dropped and made again
    session.run(images(30))
    session.run(images(30))
    with session.lane() as lane:
        assert lane.captured <= 16
    assert cuda.counts["capture"] >= 1


def test_without_graphs(opened: Open) -> None:
    session, engine, cuda = opened(cuda_graphs=False)
    for _ in range(3):
        session.run(images(2))
    assert cuda.counts["launch"] == cuda.counts["capture"] == 0
    assert engine.runs == 3


@pytest.mark.parametrize("how", ["context says no", "capture fails"])
def test_what_cannot_be_captured_runs_without_graphs(opened: Open, how: str) -> None:
    session, _, cuda = opened(engine={"capturable": how == "capture fails"})
    cuda.refuse_capture = True
    for seed in range(3):
        batch = images(2, seed)
        np.testing.assert_array_equal(session.run(batch), expected(batch))
    assert cuda.counts["launch"] == 0


@pytest.mark.parametrize(
    "given_images",
    [
        np.zeros((2, *SHAPE), np.float64),
        np.zeros(SHAPE, np.float32),
        np.zeros((2, 3, SIZE, 2), np.float32),
        [[1.0]],
        None,
    ],
)
def test_unfit_images(opened: Open, given_images: Any) -> None:
    session, _, _ = opened()
    with pytest.raises(BadInput):
        session.run(given_images)


def test_pixels_are_normalised(opened: Open) -> None:
    session, _, _ = opened()
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    wanted = expected(Preprocessing(image_size=SIZE).normalize(pixels))
    np.testing.assert_array_equal(session.run(pixels), wanted)


def test_threads(opened: Open) -> None:
    """Eight threads, two contexts: nobody sees another's logits."""
    session, _, _ = opened(contexts=2)
    failures: list[object] = []

    def work(seed: int) -> None:
        for repeat in range(20):
            batch = images(1 + (seed + repeat) % (2 * MAX), 100 * seed + repeat)
            if not np.array_equal(session.run(batch), expected(batch)):
                failures.append((seed, repeat))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_engine_fails(opened: Open) -> None:
    session, engine, _ = opened()
    engine.broken = True
    with pytest.raises(EnvironmentLacks, match="it broke"):
        session.run(images(2))
    engine.broken = False
    np.testing.assert_array_equal(session.run(images(2)), expected(images(2)))  # the lane is back


def test_memory_runs_out_while_opening(tmp_path: Path) -> None:
    """Nothing is left behind, wherever in the opening the memory ends."""
    needed = 4 * MAX * (int(np.prod(SHAPE)) + CLASSES)
    for memory in (0, 4 * MAX * int(np.prod(SHAPE)), needed, needed + 100):
        cuda: Any = FakeCuda(memory)
        with pytest.raises(EnvironmentLacks, match="out of memory"):
            open_fake(tmp_path, cuda=cuda, contexts=2)
        assert not cuda.buffers
        assert cuda.open_handles == 0


def test_closed(opened: Open) -> None:
    session, _, cuda = opened()
    logits = session.run(OnDevice(cuda, images(2)))
    session.close()
    session.close()
    with pytest.raises(BadInput, match="closed"):
        session.run(images(1))
    with pytest.raises(BadInput, match="closed"):
        _ = logits.__cuda_array_interface__


def test_runtime_cache(tmp_path: Path) -> None:
    """Kept beside the engine, read by the next session; a folder that refuses it is no error."""
    cache = tmp_path / "engine.cache"
    open_fake(tmp_path)[0].close()
    assert cache.read_bytes() == b"+"
    session, engine, _ = open_fake(tmp_path)
    assert engine.config is not None
    assert engine.config.cache is not None
    assert engine.config.cache.content == b"+"
    session.close()
    assert cache.read_bytes() == b"++"
    cache.unlink()
    cache.mkdir()
    open_fake(tmp_path)[0].close()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_no_runtime_cache(tmp_path: Path) -> None:
    open_fake(tmp_path, runtime_cache=False)[0].close()
    assert not (tmp_path / "engine.cache").exists()


def test_the_library_refuses_the_gpu(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacks, match=r"compute capability 9\.0, which is not supported"):
        open_fake(tmp_path, content=b"refused")


@pytest.mark.parametrize(
    "engine",
    [
        {"output_shape": (-1, CLASSES, 2)},
        {"output_shape": (-1, -1)},
        {"input_shape": (-1, 3, -1, -1)},
        {"num_io_tensors": 1},
    ],
)
def test_engines_with_another_interface(tmp_path: Path, engine: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="no image classifier"):
        open_fake(tmp_path, engine=engine)


def test_a_fixed_batch(opened: Open) -> None:
    fixed = {"input_shape": (4, *SHAPE), "output_shape": (4, CLASSES)}
    session, engine, _ = opened(batches=(4, 4, 4), engine=fixed)
    batch = images(6)
    np.testing.assert_array_equal(session.run(batch), expected(batch))
    assert set(engine.batch_log) == {4}


@pytest.mark.parametrize("options", [{"contexts": 0}, {"allocator": "malloc"}])
def test_unknown_options(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        open_fake(tmp_path, **options)


def test_a_missing_engine(tmp_path: Path) -> None:
    cuda: Any = FakeCuda()
    library = fake_library(FakeEngine(cuda, (1, 1, 1)))
    with pytest.raises(BadInput, match="cannot be read"):
        TensorRTSession(tmp_path / "none.plan", library, RTX, cuda=cuda)


def test_libraries_before_runtime_configurations(opened: Open) -> None:
    """TensorRT 10.8 takes the allocation strategy itself."""
    from tensorrt_fake import FakeContext

    class Old(FakeEngine):
        @property
        def create_runtime_config(self) -> Any:
            raise AttributeError("create_runtime_config")

        def create_execution_context(self, config: Any) -> FakeContext:
            assert config == "USER_MANAGED"
            return super().create_execution_context(
                SimpleNamespace(
                    strategy=config, dynamic_shapes_kernel_specialization_strategy="EAGER"
                )
            )

    session, _, _ = opened(engine={"__class__": Old})
    np.testing.assert_array_equal(session.run(images(3)), expected(images(3)))

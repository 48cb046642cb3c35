"""Backends as values: named, tried in order, and asked what they lack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from runtime_models import CLASSES, SIZE, MakeBundle, MakeModel

from mimiq.errors import BadInput, DidNotStart, EnvironmentLacks
from mimiq.runtime import opening
from mimiq.runtime.backend import Lack
from mimiq.runtime.backends import BACKENDS, backend_named, backend_of
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.null import NULL, Null, NullSession
from mimiq.runtime.onnxruntime.backend import ORT, ORT_CUDA
from mimiq.runtime.opening import chosen, open_bundle
from mimiq.runtime.openvino.backend import OPENVINO
from mimiq.runtime.session import Session
from mimiq.runtime.tensorrt.backend import RTX_ENGINES, TRT_ENGINES

IMAGES = np.zeros((2, 3, SIZE, SIZE), np.float32)


class Unwilling(Null):
    """Nothing seems to be missing, and it does not start."""

    def open(self, bundle: Bundle, **options: Any) -> NullSession:
        raise DidNotStart("It does not start.", "Try another.")


def test_engines_come_first_and_the_cpu_last() -> None:
    assert BACKENDS == (RTX_ENGINES, TRT_ENGINES, ORT_CUDA, OPENVINO, ORT)


@pytest.mark.parametrize("backend", [*BACKENDS, NULL])
def test_a_backend_is_found_by_its_name_and_by_its_sessions(backend: Any) -> None:
    assert backend_named(backend.name) == backend
    assert backend_of(backend.label) == backend


def test_fp8_is_a_variant_of_its_own() -> None:
    variant = backend_of("tensorrt-rtx-fp8")
    assert variant != RTX_ENGINES
    assert variant.name == "rtx"
    with pytest.raises(BadInput, match="no-such-chip"):
        backend_of("no-such-chip")


def test_the_graph_is_that_of_the_numbers(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    assert {backend.graph_of(bundle) for backend in (*BACKENDS, NULL)} == {"model.onnx"}


def test_null_answers_without_computing(make_bundle: MakeBundle, make_model: MakeModel) -> None:
    with open_bundle(make_bundle(), "null") as session:
        assert isinstance(session, Session)
        assert (session.backend, session.input_shape) == ("null", (3, SIZE, SIZE))
        assert not session.run(IMAGES).any()
        assert session.run(np.zeros((1, SIZE, SIZE, 3), np.uint8)).shape == (1, CLASSES)
        with pytest.raises(BadInput, match="this model takes"):
            session.run(IMAGES[:, :1])
    with pytest.raises(BadInput, match="closed"):
        session.run(IMAGES)
    with NULL.open_graph(make_model("graph.onnx")) as session:
        assert session.run(IMAGES).shape == (2, CLASSES)


def test_a_backend_may_be_given_as_a_value(make_bundle: MakeBundle) -> None:
    ones = Null(lambda images, classes: np.ones((len(images), classes), np.float32))
    with open_bundle(make_bundle(), ones) as session:
        assert session.run(IMAGES).all()


def test_what_is_missing_is_an_error_where_it_was_asked_for(make_bundle: MakeBundle) -> None:
    with pytest.raises(EnvironmentLacks, match="no such chip") as caught:
        open_bundle(make_bundle(), Null(lack=Lack("There is no such chip.", "rtx")))
    assert "mimiq-vit[rtx]" in caught.value.next_step


def test_auto_takes_the_first_that_suits_and_starts(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    absent, first = Null(lack=Lack("Not here."), name="absent"), Unwilling(name="first")
    monkeypatch.setattr(opening, "BACKENDS", (absent, first, ORT))
    assert chosen(bundle) is first
    with open_bundle(bundle) as session:
        assert session.backend == "onnxruntime-cpu"
    monkeypatch.setattr(opening, "BACKENDS", (absent, first))
    with pytest.raises(DidNotStart):
        open_bundle(bundle)


def test_an_option_that_it_does_not_take(make_bundle: MakeBundle) -> None:
    with pytest.raises(BadInput, match="takes no 'threads'"):
        open_bundle(make_bundle(), "null", threads=1)
    with pytest.raises(BadInput, match=r"takes no 'contexts'") as caught:
        open_bundle(make_bundle("b.mimiq"), "ort", contexts=1)
    assert "threads" in caught.value.next_step

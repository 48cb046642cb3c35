"""What a gRPC client sends in a form that does not fit is its mistake, and told in one sentence.

In processes of their own: server and client register the same protobuf names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
from runtime_models import SIZE, MakeBundle

pytestmark = pytest.mark.skipif(find_spec("mlserver") is None, reason="not installed: mlserver")
ANSWERS = """
import asyncio, json, logging, sys
from mlserver import ModelSettings
from mlserver.errors import MLServerError
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.converters import ModelInferRequestConverter
from mimiq.runtime.mlserver_runtime import MimiqRuntime

def request(case):
    made = pb.ModelInferRequest(id=case.get("id", ""))
    for given in case["inputs"]:
        tensor = made.inputs.add()
        tensor.name, tensor.datatype = given["name"], given["datatype"]
        tensor.shape.extend(given["shape"])
        tensor.contents.fp32_contents.extend(given.get("floats", ()))
        tensor.contents.bytes_contents.extend(text.encode() for text in given.get("texts", ()))
    made.raw_input_contents.extend(bytes(length) for length in case.get("raw", ()))
    for name in case.get("outputs", ()):
        made.outputs.add().name = name
    return made

async def answers():
    uri, cases = sys.argv[1], json.load(sys.stdin)
    model = MimiqRuntime(ModelSettings(
        name="net", implementation=MimiqRuntime,
        parameters={"uri": uri, "extra": {"backend": "ort", "threads": 1}},
    ))
    await model.load()
    found = {}
    for name, case in cases.items():
        try:
            given = await model.predict(ModelInferRequestConverter.to_types(request(case)))
            found[name] = [200, given.outputs[0].name]
        except MLServerError as error:
            found[name] = [error.status_code, str(error)]
        except Exception as error:
            found[name] = [500, repr(error)]
    await model.unload()
    print(json.dumps(found))

asyncio.run(answers())
"""
VALUES = 3 * SIZE * SIZE
BYTES = 4 * VALUES


def case(raw: list[int] | None = None, **changed: Any) -> dict[str, Any]:
    """One image for the model; ``raw`` are the lengths of the raw contents."""
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 3, SIZE, SIZE]} | changed
    return {"inputs": [tensor], "raw": raw or []}


GOOD = case([BYTES])
TWO = GOOD | {"inputs": GOOD["inputs"] * 2}
FIT = "are not"
ID, LONG = "id cannot stand in a header", "n" * 20_000
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a byte short": (case([BYTES - 1]), f"The {BYTES - 1} bytes of the input 'images' {FIT} FP32"),
    "four bytes long": (case([BYTES + 4]), FIT),
    "no bytes": (case([0]), FIT),
    "an unknown datatype": (case([BYTES], datatype="XX"), f"{FIT} XX of shape"),
    "a small datatype": (case([BYTES], datatype="fp32"), FIT),
    "a datatype without numbers": (case([BYTES], datatype="BF16"), FIT),
    "a size below 0": (case([BYTES], shape=[-1, 3, SIZE, SIZE]), f"of shape [-1, 3, {SIZE}"),
    "no shape": (case([BYTES], shape=[]), "of shape []"),
    "a huge shape": (case([BYTES], shape=[2**62, 4]), FIT),
    "sizes without end": (case([BYTES], shape=[1] * 10_000 + [2]), FIT),
    "one raw for two": (TWO, "for 1 inputs, and the request has 2"),
    "two raw for one": (case([BYTES, BYTES]), "for 2 inputs, and the request has 1"),
    "both": (case([BYTES], floats=[0.0] * VALUES), "one of the two ways"),
    "a long name": (case([0], name=LONG), "… (20000 characters)"),
    "an unknown input": (case([BYTES], name=LONG), "no input"),
    "an unknown output": (GOOD | {"outputs": [LONG]}, "… (20000 characters)"),
    "an unknown output in words": (GOOD | {"outputs": ["n " * 20_000]}, "gives logits"),
    "texts for numbers": (case(texts=["1"] * VALUES), "are texts, and it takes numbers"),
    "an id of another script": (GOOD | {"id": "€"}, ID),
    "an id with an umlaut": (GOOD | {"id": "ü"}, ID),
    "a blank id": (GOOD | {"id": " "}, ID),
    "an id of two lines": (GOOD | {"id": "a\nb"}, ID),
    "an id with a header": (GOOD | {"id": "a\rSet-Cookie: x"}, ID),
    "a long id": (GOOD | {"id": "a" * 1001}, ID),
}
TAKEN = {
    "raw": GOOD,
    "values": case(floats=[0.0] * VALUES),
    "an id": GOOD | {"id": "request 7: " + "~" * 900},
}


def test_each_request_is_answered_or_refused_in_a_sentence(make_bundle: MakeBundle) -> None:
    """One process for all: MLServer takes seconds to import."""
    cases = TAKEN | {name: refused for name, (refused, _) in REFUSED.items()}
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, str(make_bundle().path)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert [answers[name] for name in TAKEN] == [[200, "logits"]] * len(TAKEN)
    wrong = {
        name: answers[name]
        for name, (_, says) in REFUSED.items()
        if answers[name][0] != 400 or says not in answers[name][1] or len(answers[name][1]) > 700
    }
    assert not wrong
    assert not any("Set-Cookie" in text or "€" in text for _, text in answers.values())

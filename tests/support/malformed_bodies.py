"""HTTP requests to the digits' server that are no good ones, by what is wrong with each."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

_VALUES = 3 * 32 * 32
_MISSING = object()
# What MLServer says of bodies that mimiq never sees, and what mimiq says of tensors.
_NO_JSON, _NO_OBJECT = "JSON decode error", "Input should be a valid dictionary or object"
_LIST, _TEXT, _REQUIRED = "should be a valid list", "should be a valid string", "Field required"
_SHAPE, _NUMBERS = "are not FP32 of shape [1, 3, 32, 32]", "it takes numbers (FP32)"
_HEADER = "id cannot stand in a header"
_NAN, _TAKES = "NaN or infinity", "This model takes images FP32 (B, 3, 32, 32)."


@dataclass(frozen=True)
class Malformed:
    """A request, and what answers it.

    Attributes:
        content: the body, or what becomes one as JSON.
        status: of the answer: 400 from mimiq, 422 from MLServer where it is not the protocol's.
        says: words of the message.
        headers: beside the body's type and length, or in their place.
    """

    content: Any
    status: int
    says: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return (
            self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()
        )


def good(**changed: Any) -> dict[str, Any]:
    """One grey image for the model ``digits``; ``changed`` are fields of its input."""
    zeros = [0.0] * _VALUES
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": zeros}
    kept = {key: value for key, value in (tensor | changed).items() if value is not _MISSING}
    return {"inputs": [kept]}


def _value(text: str) -> bytes:
    """The second value is this text, as it stands."""
    values = [0.0, "here", *[0.0] * (_VALUES - 2)]
    return json.dumps(good(data=values)).replace('"here"', text).encode()


_GOOD = json.dumps(good()).encode()
_TENSOR = good()["inputs"][0]

MALFORMED = {
    "no body": Malformed(b"", 422, _REQUIRED),
    "no JSON": Malformed(b"images", 422, _NO_JSON),
    "JSON cut off": Malformed(_GOOD[:-20], 422, _NO_JSON),
    "no UTF-8": Malformed(b'{"inputs": "\xff\xfe"}', 422, _NO_JSON),
    "UTF-16": Malformed(_GOOD.decode().encode("utf-16"), 422, _NO_JSON),
    "brackets without end": Malformed(b"[" * 100_000, 422, _NO_JSON),
    "values nested too deep": Malformed(_value("[" * 9000 + "]" * 9000), 422, _NO_JSON),
    "values nested for numpy too deep": Malformed(_value("[" * 200 + "]" * 200), 400, _SHAPE),
    "another type of content": Malformed(_GOOD, 422, _NO_OBJECT, {"Content-Type": "text/plain"}),
    "said to be compressed": Malformed(
        _GOOD, 400, "parsing the body", {"Content-Encoding": "gzip"}
    ),
    "a length too short": Malformed(_GOOD, 422, _NO_JSON, {"Content-Length": "100"}),
    "a length below 0": Malformed(_GOOD, 400, "Invalid HTTP request", {"Content-Length": "-5"}),
    "a length that is text": Malformed(_GOOD, 400, "Invalid HTTP request", {"Content-Length": "x"}),
    "a list": Malformed([good()], 422, _NO_OBJECT),
    "a text": Malformed("images", 422, _NO_OBJECT),
    "null": Malformed(None, 422, _REQUIRED),
    "an id that is a list": Malformed(good() | {"id": [1]}, 422, _TEXT),
    "an id of another script": Malformed(good() | {"id": "€"}, 400, _HEADER),
    "a blank id": Malformed(good() | {"id": " "}, 400, _HEADER),
    "an id with a header": Malformed(good() | {"id": "a\rSet-Cookie: x"}, 400, _HEADER),
    "a long id": Malformed(good() | {"id": "a" * 100_000}, 400, _HEADER),
    "no inputs": Malformed({}, 422, _REQUIRED),
    "inputs null": Malformed({"inputs": None}, 422, _LIST),
    "inputs empty": Malformed({"inputs": []}, 400, _TAKES),
    "inputs an object": Malformed({"inputs": _TENSOR}, 422, _LIST),
    "an input null": Malformed({"inputs": [None]}, 422, _NO_OBJECT),
    "an input twice": Malformed({"inputs": [_TENSOR, _TENSOR]}, 400, "'images' came twice"),
    "an input too many": Malformed({"inputs": [_TENSOR, {**_TENSOR, "name": "mask"}]}, 400, _TAKES),
    "an unknown input": Malformed(good(name="pictures"), 400, _TAKES),
    "no name": Malformed(good(name=_MISSING), 422, _REQUIRED),
    "a number as name": Malformed(good(name=7), 422, _TEXT),
    "an unknown output": Malformed(good() | {"outputs": [{"name": "top"}]}, 400, "gives logits"),
    "outputs a text": Malformed(good() | {"outputs": "logits"}, 422, _LIST),
    "no datatype": Malformed(good(datatype=_MISSING), 422, _REQUIRED),
    "an unknown datatype": Malformed(good(datatype="FP8"), 422, "Input should be 'BOOL'"),
    "another datatype": Malformed(good(datatype="FP64"), 400, _TAKES),
    "bytes": Malformed(good(datatype="BYTES"), 400, _TAKES),
    "no shape": Malformed(good(shape=_MISSING), 422, _REQUIRED),
    "shape empty": Malformed(good(shape=[]), 400, "has no shape"),
    "a size missing": Malformed(good(shape=[1, 3, 1024]), 400, _TAKES),
    "a size below 0": Malformed(good(shape=[-1, 3, 32, 32]), 400, "has no shape"),
    "a fraction as size": Malformed(good(shape=[1.5, 3, 32, 32]), 422, "valid integer"),
    "a text as size": Malformed(good(shape=["one", 3, 32, 32]), 422, "valid integer"),
    "a huge size": Malformed(good(shape=[2**62, 3, 32, 32]), 400, "are not FP32 of shape"),
    "a size above 64 bits": Malformed(good(shape=[10**30, 3, 32, 32]), 422, "an integer"),
    "batch 0": Malformed(good(shape=[0, 3, 32, 32], data=[]), 400, "takes 1 to 64 images"),
    "no data": Malformed(good(data=_MISSING), 422, _REQUIRED),
    "data null": Malformed(good(data=None), 400, _SHAPE),
    "data an object": Malformed(good(data={"0": 0.0}), 400, _SHAPE),
    "data one text": Malformed(good(data="0" * _VALUES), 400, _SHAPE),
    "values missing": Malformed(good(data=[0.0] * 7), 400, _SHAPE),
    "values too many": Malformed(good(data=[0.0] * (_VALUES + 1)), 400, _SHAPE),
    "values ragged": Malformed(good(data=[[0.0] * (_VALUES - 1), [0.0]]), 400, _SHAPE),
    "texts for numbers": Malformed(good(data=["0.5"] * _VALUES), 400, _NUMBERS),
    "a text among the values": Malformed(_value('"grey"'), 400, _NUMBERS),
    "true for numbers": Malformed(good(data=[True] * _VALUES), 400, _NUMBERS),
    "an object among the values": Malformed(_value("{}"), 400, _SHAPE),
    "null among the values": Malformed(_value("null"), 400, _NAN),
    "beyond float32": Malformed(_value("1e39"), 400, _NAN),
    "beyond float64": Malformed(_value("1e400"), 422, _NO_JSON),
    "NaN by name": Malformed(_value("NaN"), 422, _NO_JSON),
    "an integer of 5000 digits": Malformed(_value("1" * 5000), 422, _NO_JSON),
    "an integer of 200 digits": Malformed(_value("1" * 200), 400, _NAN),
}

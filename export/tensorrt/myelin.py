"""The readable part of a TensorRT-RTX plan: its Myelin programs, as tensors and steps.

A plan holds, between binary parts, one text for each compiled program::

    header { … accelerators={sm80 } … }
    descriptors { tensor={ … dims={ 64 192 } name="…" region=… type=int8 } … }
    main { fully_connected={ name="…" output={"…" } input={"…" } … layers="[ONNX Layer: …]…" } … }

A ``runtime_fusion`` step stands for a program of its own, which follows with ``accelerators={*}``.
The format is not documented (seen in versions 1.3 to 1.7): what cannot be read is left out, and
nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BITS = {
    "int4": 4,
    "fp4": 4,
    "fp4e2m1": 4,
    "int8": 8,
    "uint8": 8,
    "bool": 8,
    "half": 16,
    "bf16": 16,
}
_MAX_PROGRAM = 64 << 20  # bytes of one program's text; a larger one is no text

_HEADER = b"header {\n"
_TENSOR = re.compile(r"^  (?:sub_)?tensor=\{ (.*) \}$", re.MULTILINE)
_STEP = re.compile(r'^  (\w+)=\{ name=("[^"\n]*"|[^\s"]+)(.*)$', re.MULTILINE)
_LIST = r'=\{((?:\s*"[^"\n]*")*)\s*\}'
_INPUTS = re.compile(r" (?:input|input_args)" + _LIST)
_OUTPUTS = re.compile(r" (?:output|output_args)" + _LIST)
_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\"\[]|$)")
_QUOTED = re.compile(r'"([^"\n]*)"')


@dataclass(frozen=True)
class Tensor:
    """A tensor of a program.

    Attributes:
        type: as the plan names it: ``half``, ``float``, ``int8``, ``int4``, ``fp8_e4m3`` …
        dims: sizes; None where the size depends on the batch.
        constant_bytes: size of its data in the plan; 0 for what is computed.
        pool: where its data lies: constants of one pool are one constant.
        base: the tensor it is a view of, or "".
    """

    name: str
    type: str
    dims: tuple[int | None, ...]
    constant_bytes: int
    pool: str
    base: str

    @property
    def is_matrix(self) -> bool:
        """Whether it can be the weight of a product: two dimensions or more, not a bias row."""
        return len(self.dims) >= 2 and (self.dims[-2] or 0) > 1


@dataclass(frozen=True)
class Step:
    """One kernel launch, or one operation inside a runtime fusion.

    Attributes:
        kind: ``fully_connected`` (a matrix product), ``corrltn`` (a convolution), ``function``
            (generated code), ``runtime_fusion`` …
        name: for products the ONNX nodes it computes, joined by ``+``.
        alpha: the factor on a product's accumulator, or None.
        nodes: every ONNX node it covers, Q/DQ included.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    alpha: float | None
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class MyelinProgram:
    """One compiled program.

    Attributes:
        accelerators: compute capabilities (``sm80``); ``*`` for the body of a runtime fusion.
        forward_compatible: whether later GPUs may run it.
    """

    accelerators: tuple[str, ...]
    forward_compatible: bool
    tensors: dict[str, Tensor]
    steps: tuple[Step, ...]

    @property
    def is_fusion_body(self) -> bool:
        return self.accelerators == ("*",)


def read_programs(plan: bytes) -> list[MyelinProgram]:
    """Every program in a serialised plan, in the order of the file; empty where there is none."""
    return [_program(text) for text in _texts(plan)]


def _texts(plan: bytes) -> Iterator[str]:
    """Header, descriptors and main section of each program."""
    start = plan.find(_HEADER)
    while start >= 0:
        following = plan.find(_HEADER, start + 1)
        limit = following if following >= 0 else len(plan)
        main = plan.find(b"\nmain {\n", start, min(limit, start + _MAX_PROGRAM))
        if main >= 0:
            end = plan.find(b"\n}\n", main, min(limit, main + _MAX_PROGRAM))
            yield plan[start : end if end >= 0 else limit][:_MAX_PROGRAM].decode("latin-1")
        start = following


def _program(text: str) -> MyelinProgram:
    head, _, rest = text.partition("\ndescriptors {\n")
    descriptors, _, main = rest.partition("\nmain {\n")
    accelerators = re.search(r"accelerators=\{([^}\n]*)\}", head)
    tensors = (_tensor(match[1]) for match in _TENSOR.finditer(descriptors))
    return MyelinProgram(
        accelerators=tuple(accelerators[1].split()) if accelerators else (),
        forward_compatible="hardware_forward_compatibility=1" in head,
        tensors={tensor.name: tensor for tensor in tensors if tensor is not None},
        steps=tuple(_step(match) for match in _STEP.finditer(main)),
    )


def _tensor(fields: str) -> Tensor | None:
    name = re.search(r' name="([^"\n]*)"', fields)
    kind = re.search(r" type=(\w+)", fields)
    if name is None or kind is None:
        return None
    dims = re.search(r"dims=\{([^}\n]*)\}", fields)
    payload = re.search(r"const_payload_size=(\d{1,15})\b", fields)
    base = re.search(r'base="([^"\n]*)"', fields)
    region = re.search(r" region=(\S+)", fields)
    offset = re.search(r" offset=(\d+)", fields)
    return Tensor(
        name=name[1],
        type=kind[1],
        dims=tuple(_size(dim) for dim in dims[1].split()) if dims else (),
        constant_bytes=int(payload[1]) if payload else 0,
        pool=f"{region[1] if region else ''}@{offset[1] if offset else name[1]}",
        base=base[1] if base else "",
    )


def _size(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 16 else None


def _step(match: re.Match[str]) -> Step:
    kind, name, rest = match[1], match[2].strip('"'), match[3]
    inputs, outputs = _INPUTS.search(rest), _OUTPUTS.search(rest)
    layers = rest.find(' layers="')
    alpha = re.search(r" alpha=([0-9A-F]{8})\b", rest)
    return Step(
        kind=kind,
        name=name,
        inputs=tuple(_QUOTED.findall(inputs[1])) if inputs else (),
        outputs=tuple(_QUOTED.findall(outputs[1])) if outputs else (),
        alpha=_float(alpha[1]) if alpha else None,
        nodes=tuple(_LAYER.findall(rest, layers)) if layers >= 0 else (),
    )


def _float(hexadecimal: str) -> float:
    import struct

    value: float = struct.unpack(">f", bytes.fromhex(hexadecimal))[0]
    return value


def bits_of(kind: str) -> int:
    """Width of a data type as plans name it; 32 for what is not known to be narrower."""
    if kind.startswith(("fp4", "fp8")):
        return int(kind[2])
    return _BITS.get(kind, 32)

"""A TensorRT-RTX plan read without a GPU: which product runs in which type."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mimiq.errors import BadInput
from mimiq.export.tensorrt.myelin import MyelinProgram, Step, Tensor, bits_of, read_programs
from mimiq.export.tensorrt.summary import (
    LOW_PRECISION,
    UNKNOWN,
    FusedAttention,
    MatrixProduct,
    PlanSummary,
    Role,
)

_PRODUCTS: dict[str, Role] = {"fully_connected": "linear", "corrltn": "convolution"}
_NO_KERNEL = {"shape_call", "label"}
# Generated kernels are named after what they do, four letters each: __myl_ReshTranCast.
_MOVEMENT = {"Cast", "Copy", "Move", "Resh", "Tran", "Slic", "Repl", "Conc"}
_PRODUCT_NODE = re.compile(r"(MatMul|Gemm)(_\d+)?$")
_QDQ = re.compile(r"(Dequantize|Quantize)Linear(_\d+)?$")
_DEPTH = 3  # how many views and unpacking kernels may lie between a constant and its product


def read_plan(plan: bytes | str | Path) -> PlanSummary:
    """What a serialised engine will run, from the text inside it.

    Works on any host. An engine of another product, of a version whose text differs, or damaged
    bytes give less, down to ``source="unreadable"``; they never raise.

    Args:
        plan: the engine, or the path of its file.

    Raises:
        BadInput: the file cannot be read.
    """
    content = plan if isinstance(plan, bytes) else _content(Path(plan))
    programs = read_programs(content)
    mains = [program for program in programs if not program.is_fusion_body and program.steps]
    if not mains:
        return PlanSummary(source="unreadable", plan_bytes=len(content))
    bodies = [program for program in programs if program.is_fusion_body]
    readers = [_Reader(program, bodies) for program in mains]
    # Several programs are the same network for several GPUs: the widest types are what is promised.
    worst = max(readers, key=lambda reader: sum(bits_of(p.compute) for p in reader.products()))
    return PlanSummary(
        source="plan",
        plan_bytes=len(content),
        targets=tuple(dict.fromkeys(target for main in mains for target in main.accelerators)),
        forward_compatible=any(main.forward_compatible for main in mains),
        kernels=len(worst.kernels()),
        reformats=sum(worst.is_reformat(step) for step in worst.kernels()),
        unpacks=sum(worst.is_unpack(step) for step in worst.kernels()),
        products=tuple(worst.products()),
        attentions=tuple(worst.attentions()),
        weight_bytes=worst.weight_bytes(),
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}", "Check the path.") from error


class _Reader:
    """One main program, and the bodies of runtime fusions that may belong to it."""

    def __init__(self, program: MyelinProgram, bodies: Iterable[MyelinProgram]) -> None:
        self.program = program
        self.producers = {name: step for step in program.steps for name in step.outputs}
        self.bodies: dict[str, tuple[MyelinProgram, Step]] = {}
        for body in bodies:
            for step in body.steps:
                if step.kind in _PRODUCTS:
                    for node in _nodes(step):
                        self.bodies.setdefault(node, (body, step))

    def kernels(self) -> list[Step]:
        return [step for step in self.program.steps if step.kind not in _NO_KERNEL]

    def products(self) -> list[MatrixProduct]:
        found = []
        for step in self.kernels():
            if step.kind in _PRODUCTS:
                found.append(self._product(step, step, self.program))
            elif step.kind == "runtime_fusion":
                named = [self.bodies[node] for node in step.nodes if node in self.bodies]
                inside = {core.name: (body, core) for body, core in named}
                found += [self._product(step, core, body) for body, core in inside.values()]
                if not inside and "Fc" in step.name:  # its body cannot be read
                    found.append(MatrixProduct(step.nodes, "matmul", UNKNOWN, UNKNOWN, UNKNOWN))
            elif step.kind == "function" and "MulSum" in step.name:
                found += self._generated(step)
        return found

    def _generated(self, step: Step) -> list[MatrixProduct]:
        """A product of one row, written out as multiply and sum inside generated code."""
        weight = self._weight(step)
        nodes = tuple(node for node in step.nodes if _PRODUCT_NODE.search(node))
        if weight is None or not nodes:
            return []
        types = {_type(self.program.tensors.get(name)) for name in step.inputs} - {UNKNOWN}
        stored, widest = _type(weight), max(types, key=bits_of, default=UNKNOWN)
        compute = widest if stored in LOW_PRECISION else stored
        output = _type(self.program.tensors.get(step.outputs[0])) if step.outputs else UNKNOWN
        return [MatrixProduct(nodes, "linear", compute, stored, output)]

    def _product(self, step: Step, core: Step, body: MyelinProgram) -> MatrixProduct:
        """``core`` is the product itself, in ``body``; ``step`` the kernel that contains it."""
        types = [_type(body.tensors.get(name)) for name in core.inputs[:2]]
        known = len(types) == 2 and UNKNOWN not in types
        compute = max(types, key=bits_of) if known else UNKNOWN
        weight = self._weight(step)
        role = _PRODUCTS[core.kind]
        if role == "linear" and weight is None:
            role = "matmul"
        output = _type(self.program.tensors.get(step.outputs[0])) if step.outputs else UNKNOWN
        return MatrixProduct(
            nodes=_nodes(core),
            role=role,
            compute=compute,
            weights=_type(weight) if weight else None,
            output=output,
            unscaled_half=compute == "int8" and output == "half" and core.alpha == 1.0,
            unpacked=weight is not None and weight.name not in step.inputs,
        )

    def _weight(self, step: Step) -> Tensor | None:
        """The largest constant matrix behind a step, through views and unpacking kernels."""
        matrices = [
            tensor for name in step.inputs for tensor in self._constants(name) if tensor.is_matrix
        ]
        return max(matrices, key=lambda tensor: tensor.constant_bytes, default=None)

    def _constants(self, name: str, depth: int = _DEPTH) -> list[Tensor]:
        """The constants behind a tensor; empty where anything computed from the input mixes in."""
        tensor = self.program.tensors.get(name)
        if tensor is not None and tensor.constant_bytes:
            return [tensor]
        if depth == 0:
            return []
        if tensor is not None and tensor.base:
            return self._constants(tensor.base, depth - 1)
        step = self.producers.get(name)
        if step is None or step.kind != "function":
            return []
        behind = [self._constants(source, depth - 1) for source in step.inputs]
        return [c for found in behind for c in found] if behind and all(behind) else []

    def attentions(self) -> list[FusedAttention]:
        return [
            FusedAttention(step.nodes, self._attention_type(step))
            for step in self.kernels()
            if step.kind == "function" and "mha" in step.name.lower()
        ]

    def _attention_type(self, step: Step) -> str:
        """Of q, k and v; what is added to the scores stands between k and v, in half always."""
        types = [_type(self.program.tensors.get(name)) for name in step.inputs]
        operands = [kind for kind in types if kind != "int64"]  # the rest is bookkeeping
        types = [kind for kind in (*operands[:2], *operands[2:][-1:]) if kind != UNKNOWN]
        return max(types, key=bits_of, default=UNKNOWN)

    def is_unpack(self, step: Step) -> bool:
        return step.kind == "function" and any(
            constant.is_matrix for name in step.outputs for constant in self._constants(name)
        )

    def is_reformat(self, step: Step) -> bool:
        return step.kind == "function" and only_moves(step.name) and not self.is_unpack(step)

    def weight_bytes(self) -> tuple[tuple[str, int], ...]:
        pools = {
            tensor.pool: tensor
            for tensor in self.program.tensors.values()
            if tensor.constant_bytes and "literal" not in tensor.pool
        }
        totals: Counter[str] = Counter()
        for tensor in pools.values():
            totals[_type(tensor)] += tensor.constant_bytes
        return tuple(sorted(totals.items()))


def _nodes(core: Step) -> tuple[str, ...]:
    """The ONNX products behind a product: merged ones are in its name, unless it was made up.

    Names are ``a/MatMul``, ``a/MatMul_U134`` and ``a/MatMul+b/MatMul``; made up ones ``__mye12``.
    """
    names = [re.sub(r"_U\d+$", "", name) for name in core.name.split("+")]
    if all(name in core.nodes for name in names):
        return tuple(names)
    products = tuple(node for node in core.nodes if not _QDQ.search(node))
    return products or core.nodes or tuple(names)


def only_moves(name: str) -> bool:
    """Whether a generated kernel, by its name, moves, casts or reshapes and computes nothing."""
    match = re.fullmatch(r"__myl_((?:[A-Z][a-z]+)+)", name)
    parts = re.findall(r"[A-Z][a-z]+", match[1]) if match else []
    return bool(parts) and all(part in _MOVEMENT for part in parts)


def _type(tensor: Tensor | None) -> str:
    """A plan's name of a type as ours: ``fp8_e4m3`` is ``fp8``, ``bf16`` is ``bfloat16``."""
    if tensor is None:
        return UNKNOWN
    if tensor.type.startswith("fp8"):
        return "fp8"
    if tensor.type.startswith("fp4"):
        return "fp4"
    return {"bf16": "bfloat16"}.get(tensor.type, tensor.type)

"""The walk over a network's Linears, in the order in which data meets them.

A layer-wise algorithm changes one Linear at a time and wants to see what reaches it when all before
it are as they will be. Run naively, every Linear costs a forward of its block, in the quantised
network and in the original. Here a block's parts remember what they gave, batch by batch, once
nothing before them will change any more, so that the whole walk costs about two forwards of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import nn

from mimiq.models.family import Family, Write
from mimiq.quantize.layers import QuantLinear

MEMORY = 1 << 30  # bytes that the parts of a block remember, in each of the two networks


@dataclass(frozen=True)
class Rows:
    """What a batch of images brings to one Linear.

    Attributes:
        inputs: (B, T, in), quantised as the Linear quantises them; the tokens of an image in the
            order in which they reach it, window by window where it works on windows.
        lacking: (B, T, in), what these lack of the original's inputs; for a Linear that writes to
            the residual stream (B, T, C), what the stream behind it lacks. The Linear's weight is
            not rounded here.
        stream: (B, T, C), the original's stream behind such a Linear, in the same order; None for
            any other.
    """

    inputs: torch.Tensor
    lacking: torch.Tensor
    stream: torch.Tensor | None


@dataclass(frozen=True)
class Visit:
    """One Linear of the quantised network, to be changed before the next is asked for.

    Attributes:
        name: module name, of the whole network.
        layer: the Linear.
    """

    name: str
    layer: QuantLinear
    _block: _Block
    _inside: str
    _write: Write | None

    def rows(self) -> Iterator[Rows]:
        """Batch by batch; to be run through to its end once, and no more."""
        return self._block.rows(self.layer, self._inside, self._write)

    def errors(self) -> torch.Tensor | None:
        """What takes a row of inputs, a one and what it lacks to the error of the output.

        Returns:
            fp32 (out, in + 1 + in); None for a Linear that writes to the residual stream, whose
            errors are :attr:`Rows.lacking`.
        """
        if self._write is not None:
            return None
        weight, bias = self.layer.weight, self.layer.bias
        original = self._block.reference.block.get_submodule(self._inside)
        assert isinstance(original, nn.Linear)
        less = weight.new_zeros(len(weight)) if bias is None else original.bias - bias
        return torch.cat([original.weight - weight, less[:, None], original.weight], 1)


@torch.no_grad()
def walk(
    family: Family,
    reference: nn.Module,
    module: nn.Module,
    images: torch.Tensor,
    *,
    batch_size: int = 32,
    memory: int = MEMORY,
) -> Iterator[Visit]:
    """Visit the quantised Linears of every block and merge of ``module``.

    Args:
        reference: ``module`` before quantisers were put in.
        images: (B, C, H, W), normalised.
        memory: bytes that the parts of a block may remember, in each of the networks; what finds no
            room is computed again.
    """
    names = {part: name for name, part in module.named_modules()}
    quantized = original = list(images.split(batch_size)) if len(images) else []
    for step, counterpart in zip(family.steps(module), family.steps(reference), strict=True):
        if step.kind == "head":
            return
        if step.part is None or counterpart.part is None:
            quantized = [step.run(batch) for batch in quantized]
            original = [counterpart.run(batch) for batch in original]
            continue
        changing = _Memory(step.part, memory)
        same = _Memory(counterpart.part, memory, changes=False)
        block = _Block(changing, same, quantized, original)
        with block.memories():
            for name, layer in list(step.part.named_modules()):
                if isinstance(layer, QuantLinear):
                    yield Visit(names[layer], layer, block, name, step.writes.get(name))
            quantized, original = block.outputs()


def visits(family: Family, module: nn.Module) -> int:
    """How many Linears a walk over ``module`` visits."""
    parts = [
        step.part for step in takewhile(lambda step: step.kind != "head", family.steps(module))
    ]
    layers = (layer for part in parts if part is not None for layer in part.modules())
    return sum(isinstance(layer, QuantLinear) for layer in layers)


@dataclass(frozen=True)
class _Block:
    """A block in both networks, and the tokens that enter it, batch by batch."""

    quantized: _Memory
    reference: _Memory
    entering: list[torch.Tensor]
    entering_reference: list[torch.Tensor]

    @contextmanager
    def memories(self) -> Iterator[None]:
        with self.quantized.kept(), self.reference.kept():
            yield

    def rows(self, layer: QuantLinear, name: str, write: Write | None) -> Iterator[Rows]:
        twin = self.reference.block.get_submodule(name)
        place = name if write is None else write.reader
        for index, tokens in enumerate(self.entering):
            wanted = self.reference.run(index, self.entering_reference[index], twin, place)
            quantizer, layer.weight_quantizer = layer.weight_quantizer, nn.Identity()
            try:
                found = self.quantized.run(index, tokens, layer, place)
            finally:
                layer.weight_quantizer = quantizer
            inputs = layer.input_quantizer(found.inputs)
            if write is None:
                taken = inputs if not layer.outliers else _exact(inputs, found.inputs, layer)
                lacking, stream = wanted.inputs - taken, None
            else:
                lacking, stream = wanted.tensor - found.tensor, wanted.tensor

            def rows(x: torch.Tensor, count: int = len(tokens)) -> torch.Tensor:
                """(B, T, …), in the order of the Linear's own."""
                x = x if write is None or write.rows is None else write.rows(x)
                return x.reshape(count, -1, x.shape[-1])

            yield Rows(
                inputs.reshape(len(tokens), -1, layer.in_features),
                rows(lacking),
                None if stream is None else rows(stream),
            )

    def outputs(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What leaves the block, in both networks."""
        return self.quantized.outputs(self.entering), self.reference.outputs(
            self.entering_reference
        )


class _Reached(Exception):
    """Ends a block's forward at a place: what comes behind it is not needed."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.tensor = tensor


@dataclass
class _Found:
    """The input of a Linear, and the tensor that reaches a place."""

    inputs: torch.Tensor
    tensor: torch.Tensor


class _Memory:
    """A block whose parts remember what they gave for each batch.

    Where the Linear at hand ``changes``, what is behind it depends on it and is not remembered.
    What a part remembers takes the place of what the parts inside it do. Of many images some are
    computed again, so that memory does not grow with their number.
    """

    def __init__(self, block: nn.Module, most: int, *, changes: bool = True) -> None:
        self.block = block
        self.most = most
        self.changes = changes
        self._outputs: dict[tuple[int, nn.Module], torch.Tensor] = {}
        self._bytes = 0
        self._batch = 0
        self._settled = True

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside the ``with`` the block's parts remember."""
        parts = [part for name, part in self.block.named_modules() if name and _remembers(part)]
        for part in parts:
            part.forward = self._remembering(part)
        try:
            yield
        finally:
            for part in parts:
                del part.forward
            self._outputs.clear()
            self._bytes = 0

    def _remembering(self, part: nn.Module) -> Any:
        compute, inside = part.forward, [child for child in part.modules() if child is not part]

        def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
            known = self._outputs.get((self._batch, part))
            if known is not None:
                return known
            out: torch.Tensor = compute(*args, **kwargs)
            if self._settled and self._bytes + out.nbytes <= self.most:
                for child in inside:
                    self._forget(child)
                self._outputs[self._batch, part] = out
                self._bytes += out.nbytes
            return out

        return forward

    def _forget(self, part: nn.Module) -> None:
        """What ``part`` gave for the batch at hand."""
        known = self._outputs.pop((self._batch, part), None)
        self._bytes -= 0 if known is None else known.nbytes

    def run(self, batch: int, tokens: torch.Tensor, layer: nn.Module, place: str) -> _Found:
        """The block up to the part ``place``, whose input is found; to its end where that is ''."""
        self._batch, self._settled = batch, True
        for part in self.block.modules():  # branches side by side: one ran on while another was met
            if part is not layer and layer in part.modules():
                self._forget(part)
        inputs: list[torch.Tensor] = []

        def arrived(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            inputs.append(args[0])
            self._settled = not self.changes

        def stop(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            raise _Reached(args[0])

        handles = [layer.register_forward_pre_hook(arrived)]
        if place:
            handles.append(self.block.get_submodule(place).register_forward_pre_hook(stop))
        try:
            out = self.block(tokens)
        except _Reached as reached:
            out = reached.tensor
        finally:
            for handle in handles:
                handle.remove()
            self._settled = True
        return _Found(inputs[0], out)

    def outputs(self, entering: list[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for batch, tokens in enumerate(entering):
            self._batch, self._settled = batch, True
            found.append(self.block(tokens))
            for part in self.block.modules():
                self._forget(part)
        return found


def _exact(quantized: torch.Tensor, inputs: torch.Tensor, layer: QuantLinear) -> torch.Tensor:
    """What the Linear computes with: its outlier columns are not rounded."""
    columns = torch.tensor(layer.outliers, device=inputs.device)
    return quantized.index_copy(-1, columns, inputs[..., layer.outliers])


def _remembers(part: nn.Module) -> bool:
    """Linears, and what holds Linears; norms and point-wise functions cost less than memory."""
    return any(isinstance(inner, nn.Linear | QuantLinear) for inner in part.modules())

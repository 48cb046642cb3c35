"""Compiled, the arithmetic of fake quantisation is what it is in eager mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mimiq.quantize import kernels as kernels
from mimiq.quantize.fake_quant import Grid, fake_quantize_to


def test_without_a_compiler_it_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with kernels.compiled(torch.device("cpu")) as works:
        assert not works
        assert kernels._kernels == kernels._EAGER
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *args: args[0] + 1)
    with kernels.compiled(torch.device("cpu")) as works:  # it compiles, but to something else
        assert not works
        assert kernels._kernels == kernels._EAGER


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", [Grid.signed(4), Grid(0, 6, 5, 8), Grid(-5, 4, 2, 3, 3)])
@pytest.mark.parametrize(("axis", "block", "shape"), [(-1, 0, ()), (0, 0, (6,)), (1, 4, (6, 20))])
def test_compiled_it_is_the_same(
    compiled: None,
    axis: int,
    block: int,
    shape: tuple[int, ...],
    grid: Grid,
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 80, generator=generator).to(dtype).requires_grad_()
    scale = (torch.rand(shape, generator=generator) * 0.1 + 0.1).requires_grad_()
    weights = torch.randn(6, 80, generator=generator)
    found = fake_quantize_to(x, scale, grid, axis, block)
    (found * weights).sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    fast = (found.detach(), x.grad, scale.grad)
    x.grad = scale.grad = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_kernels", kernels._EAGER)
        eager = fake_quantize_to(x, scale, grid, axis, block)
        (eager * weights).sum().backward()
    assert torch.equal(fast[0], eager)
    assert torch.equal(fast[1], x.grad)
    torch.testing.assert_close(fast[2], scale.grad, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def compiled() -> Iterator[None]:
    with kernels.compiled(torch.device("cpu")) as works:
        if not works:
            pytest.skip("no working C++ compiler for torch.compile")
        yield

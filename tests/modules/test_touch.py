"""Zero gradients for unused parameters."""

from __future__ import annotations

import torch

from w2v.modules.autograd import with_zero_grads


def test_value_is_unchanged_and_gradients_are_zero() -> None:
    used = torch.nn.Parameter(torch.randn(3))
    unused = [torch.nn.Parameter(torch.full((2, 4), torch.nan)), torch.nn.Parameter(torch.randn(5))]
    fixed = torch.nn.Parameter(torch.randn(2), requires_grad=False)
    x = used * 2
    y = with_zero_grads(x, [*unused, fixed])
    assert torch.equal(y, x)
    y.sum().backward()
    assert torch.equal(used.grad, torch.full((3,), 2.0))  # type: ignore[arg-type]
    for parameter in unused:
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
        assert not parameter.grad.any()
    assert fixed.grad is None


def test_gradients_can_be_accumulated_in_place() -> None:
    parameter = torch.nn.Parameter(torch.randn(4))
    x = torch.randn(2, requires_grad=True)
    with_zero_grads(x, [parameter]).sum().backward()
    assert parameter.grad is not None
    parameter.grad += 1  # fails on a gradient whose elements share memory
    with_zero_grads(x, [parameter]).sum().backward()
    assert torch.equal(parameter.grad, torch.ones(4))


def test_nothing_happens_without_gradients() -> None:
    x = torch.randn(2)
    with torch.no_grad():
        assert with_zero_grads(x, [torch.nn.Parameter(torch.randn(1))]) is x
    assert with_zero_grads(x, []) is x

"""Frame arithmetic against real convolutions and brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.functional.conv_spec import (
    conv_layers,
    frame_lengths,
    padded_frame_lengths,
    receptive_field,
    total_stride,
)

RECIPE = conv_layers("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2")
stacks = st.lists(st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=4)


def run(stack: list[tuple[int, int, int]], source: torch.Tensor) -> torch.Tensor:
    for _, kernel, stride in stack:
        source = torch.nn.functional.conv1d(source, torch.ones(1, 1, kernel), stride=stride)
    return source


@settings(max_examples=60)
@given(stacks, st.integers(1, 200))
def test_lengths_are_those_of_real_convolutions(stack: list[tuple[int, int, int]], length: int) -> None:
    field = receptive_field(stack)
    expected = run(stack, torch.zeros(1, 1, length)).shape[-1] if length >= field else 0
    assert frame_lengths(length, stack) == expected
    assert frame_lengths(torch.tensor([length, field]), stack).tolist() == [expected, 1]


@settings(max_examples=30)
@given(stacks)
def test_field_and_stride_are_what_a_frame_sees(stack: list[tuple[int, int, int]]) -> None:
    field, stride = receptive_field(stack), total_stride(stack)
    source = torch.zeros(1, 1, field + stride, requires_grad=True)
    frames = run(stack, source)
    assert frames.shape[-1] == 2
    frames[0, 0, 0].backward()
    # Only samples inside the field count; with strides wider than kernels some of them do not.
    seen = source.grad.flatten().nonzero().flatten()  # type: ignore[union-attr]
    assert seen.min() == 0
    assert seen.max() == field - 1


def test_the_recipe_has_the_papers_numbers() -> None:
    assert (receptive_field(RECIPE), total_stride(RECIPE)) == (400, 320)
    assert frame_lengths(16000, RECIPE) == 49
    assert frame_lengths(399, RECIPE) == 0


@settings(max_examples=200)
@given(st.integers(1, 400), st.integers(1, 40), st.data())
def test_original_padding_rule(num_samples: int, num_frames: int, data: st.DataObject) -> None:
    num_frames = min(num_frames, num_samples)
    length = data.draw(st.integers(0, num_samples))
    # The rule as the original states it, on the boolean mask.
    mask = torch.arange(num_samples) >= length
    extra = num_samples % num_frames
    padding = mask[: num_samples - extra].view(num_frames, -1).all(dim=-1)
    ours = padded_frame_lengths(torch.tensor([length]), num_samples, num_frames)
    assert ours.tolist() == [int((~padding).sum())]


@pytest.mark.parametrize(
    "text", ["[]", "[(512, 10)]", "[(512, 0, 1)]", "[(512, 10, 1.5)]", "5", "[(True, 2, 2)]", "__import__('os')"]
)
def test_bad_layers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|not allowed|is not a list"):
        conv_layers(text)


def test_lists_of_a_checkpoint_are_read() -> None:
    assert conv_layers([[512, 10, 5], [512, 3, 2]]) == ((512, 10, 5), (512, 3, 2))

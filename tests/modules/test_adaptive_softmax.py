"""The adaptive softmax is torch's own where nothing is tied, and plain arithmetic where it is; so are its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from w2v.errors import ConfigError
from w2v.modules.adaptive_input import AdaptiveInput
from w2v.modules.adaptive_softmax import AdaptiveSoftmax
from w2v.modules.word_softmax import WordSoftmax

NUM_WORDS, DIM, CUTOFF, FACTOR = 50, 16, [10, 25], 2.0


def torchs(ours: AdaptiveSoftmax) -> nn.AdaptiveLogSoftmaxWithLoss:
    twin = nn.AdaptiveLogSoftmaxWithLoss(DIM, NUM_WORDS, CUTOFF, div_value=FACTOR)
    with torch.no_grad():
        twin.head.weight.copy_(ours.head.get_parameter("weight"))
        for band, parts in enumerate(ours.tail):
            for part in (0, 1):
                twin.tail[band][part].weight.copy_(parts.get_parameter(f"{2 * part}.weight"))
    return twin


def test_untied_is_torchs() -> None:
    torch.manual_seed(0)
    ours = AdaptiveSoftmax(NUM_WORDS, DIM, CUTOFF, factor=FACTOR, dropout=0.0)
    twin = torchs(ours)
    contexts, targets = torch.randn(200, DIM, requires_grad=True), torch.randint(NUM_WORDS, (200,))
    torch.testing.assert_close(ours.log_probs(contexts), twin.log_prob(contexts))
    found = ours.log_likelihood(contexts, targets)
    wanted = twin(contexts, targets)
    torch.testing.assert_close(found, wanted.output)
    (gradient,) = torch.autograd.grad(found.sum(), contexts)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted.output.sum(), contexts)[0])


def plain_tied(x: Tensor, words: AdaptiveInput, softmax: AdaptiveSoftmax, *, tie_projections: bool) -> Tensor:
    """Return log-probabilities of all words, band by band, with float64 and no shared code."""
    state = {name: value.double() for name, value in softmax.state_dict().items()}
    vectors = [embed[0].weight.double() for embed in words.embeddings]
    projections = [embed[1].weight.double() for embed in words.embeddings]
    x = x.double()
    narrow = x @ state["head.word_proj.0.weight"].T if "head.word_proj.0.weight" in state else x
    head = torch.cat([narrow @ vectors[0].T, x @ state["head.class_proj.weight"].T], dim=1).softmax(1)
    parts = [head[:, : len(vectors[0])]]
    for band in (1, 2):
        down = projections[band] if tie_projections else state[f"tail.{band - 1}.0.weight"].T
        inside = (x @ down @ vectors[band].T).softmax(1)
        parts.append(inside * head[:, len(vectors[0]) + band - 1, None])
    return torch.cat(parts, dim=1).log()


@pytest.mark.parametrize("tie_projections", [False, True])
@pytest.mark.parametrize("input_dim", [DIM, 12])
def test_tied_is_plain_arithmetic(tie_projections: bool, input_dim: int) -> None:
    torch.manual_seed(1)
    words = AdaptiveInput(NUM_WORDS, 1, input_dim, DIM, CUTOFF, FACTOR)
    if input_dim != DIM:  # as wide as the softmax takes them, where projections are its own
        words = AdaptiveInput(NUM_WORDS, 1, DIM, DIM, CUTOFF, FACTOR)
        words.embeddings[0] = nn.Sequential(nn.Embedding(CUTOFF[0], input_dim), nn.Linear(input_dim, DIM, bias=False))
    softmax = AdaptiveSoftmax(
        NUM_WORDS, DIM, CUTOFF, factor=FACTOR, dropout=0.0, tied=words, tie_projections=tie_projections
    )
    names = set(softmax.state_dict())
    assert {name for name in names if name.endswith(".2.weight")} == set()
    assert ("tail.0.0.weight" in names) is not tie_projections
    contexts = torch.randn(60, DIM)
    wanted = plain_tied(contexts, words, softmax, tie_projections=tie_projections).float()
    torch.testing.assert_close(softmax.log_probs(contexts), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(wanted.exp().sum(1), torch.ones(60))


@pytest.mark.parametrize("kind", ["plain", "shared", "adaptive", "tied"])
def test_three_ways_to_one_number(kind: str) -> None:
    """All words at once, one per context with gradients, and one per context from kept normalisers."""
    torch.manual_seed(2)
    softmax: WordSoftmax | AdaptiveSoftmax
    if kind == "plain":
        softmax = WordSoftmax(NUM_WORDS, DIM)
    elif kind == "shared":
        softmax = WordSoftmax(NUM_WORDS, DIM, nn.Embedding(NUM_WORDS, DIM))
        assert not softmax.state_dict()
    else:
        tied = AdaptiveInput(NUM_WORDS, 1, DIM, DIM, CUTOFF, FACTOR) if kind == "tied" else None
        softmax = AdaptiveSoftmax(NUM_WORDS, DIM, CUTOFF, factor=FACTOR, dropout=0.0, tied=tied)
    contexts, targets = torch.randn(80, DIM), torch.randint(NUM_WORDS, (80,))
    wanted = softmax.log_probs(contexts)[torch.arange(80), targets]
    torch.testing.assert_close(softmax.log_likelihood(contexts, targets), wanted)
    torch.testing.assert_close(softmax.pick(contexts, softmax.normalizers(contexts), targets), wanted)


def test_a_band_that_no_target_needs_gets_zero_gradients() -> None:
    softmax = AdaptiveSoftmax(NUM_WORDS, DIM, CUTOFF, factor=FACTOR, dropout=0.1)
    softmax.log_likelihood(torch.randn(9, DIM), torch.randint(10, 25, (9,))).sum().backward()
    assert all(parameter.grad is not None for parameter in softmax.parameters())
    assert softmax.tail[1].get_parameter("2.weight").grad.abs().max() == 0
    assert softmax.tail[0].get_parameter("2.weight").grad.abs().max() > 0


def test_adaptive_inputs_are_a_look_up_by_bands() -> None:
    torch.manual_seed(3)
    inputs = AdaptiveInput(NUM_WORDS, 1, DIM, 8, CUTOFF, FACTOR)
    assert [tuple(embed[0].weight.shape) for embed in inputs.embeddings] == [(10, 16), (15, 8), (25, 4)]
    words = torch.arange(NUM_WORDS).reshape(5, 10)
    table = torch.cat([embed[0].weight @ embed[1].weight.T for embed in inputs.embeddings])
    torch.testing.assert_close(inputs(words), table[words])
    assert inputs(words)[0, 1].abs().max() == 0  # padding


@pytest.mark.parametrize("cutoff", [[25, 10], [10, 51], [0, 10], [10, 10]])
def test_cutoffs_rise_up_to_the_vocabulary(cutoff: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"^--adaptive-input-cutoff must be rising numbers up to the 50 words"):
        AdaptiveInput(NUM_WORDS, 1, DIM, DIM, cutoff, FACTOR)
    assert len(AdaptiveInput(NUM_WORDS, 1, DIM, DIM, [10, 50], FACTOR).bands) == 2

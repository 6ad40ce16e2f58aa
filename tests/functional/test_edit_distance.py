"""Edit counts against two packages and against a search over all alignments."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.functional.edit_distance import EditCounts, align, edit_counts, edit_distance

sequences = st.lists(st.sampled_from("abc"), max_size=8)


@functools.cache
def all_alignments(reference: tuple[str, ...], hypothesis: tuple[str, ...]) -> frozenset[tuple[int, int, int]]:
    """Return (substitutions, insertions, deletions) of every alignment of two short sequences."""
    if not reference or not hypothesis:
        return frozenset([(0, len(hypothesis), len(reference))])
    differs = reference[-1] != hypothesis[-1]
    found = {(s + differs, i, d) for s, i, d in all_alignments(reference[:-1], hypothesis[:-1])}
    found |= {(s, i + 1, d) for s, i, d in all_alignments(reference, hypothesis[:-1])}
    found |= {(s, i, d + 1) for s, i, d in all_alignments(reference[:-1], hypothesis)}
    return frozenset(found)


@settings(max_examples=150)
@given(reference=sequences.map(lambda x: x[:5]), hypothesis=sequences.map(lambda x: x[:5]))
def test_counts_are_those_of_a_cheapest_alignment(reference: list[str], hypothesis: list[str]) -> None:
    counts = edit_counts(reference, hypothesis)
    alignments = all_alignments(tuple(reference), tuple(hypothesis))
    assert (counts.substitutions, counts.insertions, counts.deletions) in alignments
    assert counts.errors == min(map(sum, alignments))
    assert counts.substitutions == min(found[0] for found in alignments if sum(found) == counts.errors)
    assert counts.reference_length == len(reference)


@settings(max_examples=100)
@given(reference=sequences, hypothesis=sequences)
def test_an_alignment_holds_each_place_once_and_in_order(reference: list[str], hypothesis: list[str]) -> None:
    pairs = align(reference, hypothesis)
    assert [i for i, _ in pairs if i is not None] == list(range(len(reference)))
    assert [j for _, j in pairs if j is not None] == list(range(len(hypothesis)))
    assert (None, None) not in pairs


@settings(max_examples=150)
@given(reference=sequences, hypothesis=sequences)
def test_distance_is_that_of_the_alignment_and_symmetric(reference: list[str], hypothesis: list[str]) -> None:
    counts = edit_counts(reference, hypothesis)
    assert counts.errors == edit_distance(reference, hypothesis) == edit_distance(hypothesis, reference)
    assert counts.errors == edit_counts(hypothesis, reference).errors
    assert counts.insertions - counts.deletions == len(hypothesis) - len(reference)


@settings(max_examples=100)
@given(reference=sequences.filter(bool), hypothesis=sequences)
def test_total_equals_jiwer(reference: list[str], hypothesis: list[str]) -> None:
    jiwer = pytest.importorskip("jiwer")
    theirs = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    counts = edit_counts(reference, hypothesis)
    assert counts.errors == theirs.substitutions + theirs.insertions + theirs.deletions
    assert counts.rate == pytest.approx(100 * theirs.wer)


def test_counts_add_up_and_rates_have_no_holes() -> None:
    total = edit_counts(["the", "cat", "sat"], ["the", "bat", "sat", "on"]) + edit_counts(["one", "two"], ["two"])
    assert total == EditCounts(substitutions=1, insertions=1, deletions=1, reference_length=5)
    assert total.rate == pytest.approx(60.0)
    assert edit_counts([], []).rate == 0.0
    assert edit_counts([], ["x"]).rate == float("inf")

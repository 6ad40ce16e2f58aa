"""When to stop renewing labels: a model that trains on what it says itself may grow surer and worse at once."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_RATE = 0.5  # of the characters per second of real labels


@dataclass(frozen=True)
class Round:
    """What is known of one round, the supervised model being round 0.

    Attributes:
        dev_wer: word error rate on real labels that nobody trains on, in percent.
        kept: share of the unlabelled seconds whose labels its model was trained on; 0 for round 0.
    """

    dev_wer: float
    kept: float = 0.0


def fault_of_labels(rate: float, real_rate: float) -> str:
    """Return why labels must not be trained on; empty: they may be.

    A model that says nothing is very sure of it, so confidence does not show this.

    Args:
        rate: characters per second of the labels.
        real_rate: of the labelled speech.
    """
    if rate < LEAST_RATE * real_rate:
        return f"{rate:.1f} characters per second, less than half of the {real_rate:.1f} of the labelled speech"
    return ""


def fault_of_round(before: Round, after: Round) -> str:
    """Return why a round must not teach the next one; empty: it may.

    Args:
        before: the round that wrote the labels of this one.
        after: this round.
    """
    if after.dev_wer > before.dev_wer and after.kept > before.kept:
        return (
            f"the share of labels kept rose from {100 * before.kept:.1f} to {100 * after.kept:.1f} % while the word "
            f"error rate on dev rose from {before.dev_wer:.1f} to {after.dev_wer:.1f} %"
        )
    return ""

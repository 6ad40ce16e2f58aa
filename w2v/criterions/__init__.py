"""Losses, found by `--criterion`. Importing this package registers the built-in ones."""

from w2v.criterions.base import CRITERIONS, Criterion, register_criterion

__all__ = ["CRITERIONS", "Criterion", "register_criterion"]

"""Checkpoints of every kind: read into one form, written from it. See docs/checkpoints.md."""

from w2v.convert.model_file import ModelFile
from w2v.convert.reading import read_model_file

__all__ = ["ModelFile", "read_model_file"]

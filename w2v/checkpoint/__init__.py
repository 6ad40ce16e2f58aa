"""Bytes on disk: checkpoints, written aside and renamed, read without running code."""

from w2v.checkpoint.file import load_checkpoint, save_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]

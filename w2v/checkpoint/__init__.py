"""Bytes on disk: checkpoints, written aside and renamed, read without running code."""

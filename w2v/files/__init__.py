"""Files that appear whole or not at all."""

from w2v.files.atomic import atomic_path, write_atomically

__all__ = ["atomic_path", "write_atomically"]

"""Files that appear whole or not at all, and their folders."""

from w2v.files.atomic import atomic_path, write_atomically
from w2v.files.folder import make_folder

__all__ = ["atomic_path", "make_folder", "write_atomically"]

"""One registry class for models, criterions, tasks, optimizers, schedules, decoders and scorers.

An entry binds a name of the command line to a class, to the dataclass of its options, and to the place where
it was defined. A preset (`--arch wav2vec2_large`) is a name for an entry plus changed defaults. The instances
live in the `base.py` of each kind, beside the base class that they check against.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from w2v.errors import RegistryError

T = TypeVar("T")
C = TypeVar("C", bound="type[Any]")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """What a registered name stands for.

    Attributes:
        name: the name on the command line.
        cls: the class it builds.
        config: dataclass whose fields are the flags of `cls`.
        defined_in: `module.qualname` of the class, or of the function that returned the preset.
        overrides: defaults of `config` that a preset changes; empty for the class's own name.
    """

    name: str
    cls: type[T]
    config: type
    defined_in: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


class Registry(Generic[T]):
    """Names of one kind of component.

    Args:
        kind: the word for one entry in messages, such as `model`.
        flag: the flag that selects an entry, such as `--arch`.
        base: classes registered here must derive from it.
    """

    def __init__(self, kind: str, flag: str, base: type[T]) -> None:
        self.kind = kind
        self.flag = flag
        self.base = base
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, config: type) -> Callable[[C], C]:
        """Return a class decorator that registers the class as `name`, with the options of `config`.

        Raises:
            RegistryError: the name is taken, the class has the wrong base, or `config` is no dataclass.
        """

        def decorate(cls: C) -> C:
            where = f"{cls.__module__}.{cls.__qualname__}"
            owner: type = cls
            if not issubclass(owner, self.base):
                raise RegistryError(f"{self.kind} {name!r}: {where} must derive from {self.base.__name__}")
            if not dataclasses.is_dataclass(config):
                raise RegistryError(f"{self.kind} {name!r}: the config of {where} must be a dataclass, got {config!r}")
            self._add(Entry(name, owner, config, where))
            return cls

        return decorate

    def preset(self, base: str, name: str) -> Callable[[Callable[[], dict[str, Any]]], Callable[[], dict[str, Any]]]:
        """Return a decorator for a function that returns the defaults which `name` changes in entry `base`.

        Raises:
            RegistryError: `base` is unknown, `name` is taken, or a key is no option of `base`.
        """

        def decorate(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
            entry = self.get(base)
            overrides = function()
            known = {f.name for f in dataclasses.fields(entry.config)}
            for key in overrides:
                if key not in known:
                    raise RegistryError(f"{self.kind} {name!r} sets {key!r}, which is no option of {base!r}")
            where = f"{function.__module__}.{function.__qualname__}"
            self._add(Entry(name, entry.cls, entry.config, where, {**entry.overrides, **overrides}))
            return function

        return decorate

    def get(self, name: str, hint: str = "") -> Entry[T]:
        """Return the entry called `name`.

        Args:
            name: the name looked for.
            hint: text appended to the error, such as the `--user-dir` that a checkpoint was trained with.

        Raises:
            RegistryError: no such name; the message lists near matches and all names.
        """
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, self._entries, n=3)
        message = f"{self.flag}: unknown {self.kind} {name!r}"
        if near:
            message += f"; did you mean {' or '.join(map(repr, near))}?"
        raise RegistryError(f"{message} Known: {', '.join(self.names())}{hint}")

    def names(self) -> list[str]:
        """Return all registered names in alphabetical order."""
        return sorted(self._entries)

    @contextmanager
    def temporary(self) -> Iterator[None]:
        """Forget, on leaving, what was registered inside the block (for tests)."""
        saved = dict(self._entries)
        try:
            yield
        finally:
            self._entries = saved

    def _add(self, entry: Entry[T]) -> None:
        taken = self._entries.get(entry.name)
        if taken is not None:
            raise RegistryError(
                f"{self.kind} {entry.name!r} is registered twice: by {taken.defined_in} and by {entry.defined_in}"
            )
        self._entries[entry.name] = entry

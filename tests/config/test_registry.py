"""Registries: names taken and unknown, presets, forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from w2v.config import arg
from w2v.criterions import CRITERIONS
from w2v.decoders.base import DECODERS
from w2v.errors import RegistryError
from w2v.models import MODELS
from w2v.optim import LR_SCHEDULERS, OPTIMIZERS
from w2v.registry import Registry
from w2v.scoring import SCORERS
from w2v.tasks import TASKS

ALL = [MODELS, CRITERIONS, TASKS, OPTIMIZERS, LR_SCHEDULERS, DECODERS, SCORERS]


class Animal:
    pass


@dataclass(frozen=True)
class Config:
    legs: int = arg(4, help="number of legs")
    name: str = arg(help="what it is called")


def animals() -> Registry[Animal]:
    registry: Registry[Animal] = Registry("animal", "--animal", Animal)

    @registry.register("cat", Config)
    class Cat(Animal):
        pass

    return registry


def test_an_entry_says_what_a_name_stands_for() -> None:
    entry = animals().get("cat")
    assert entry.cls.__name__ == "Cat"
    assert entry.config is Config
    assert entry.overrides == {}
    assert entry.defined_in == f"{__name__}.animals.<locals>.Cat"


def test_a_taken_name_names_both_places() -> None:
    registry = animals()
    with pytest.raises(RegistryError, match="animal 'cat' is registered twice") as caught:

        @registry.register("cat", Config)
        class Tiger(Animal):
            pass

    message = str(caught.value)
    assert f"{__name__}.animals.<locals>.Cat" in message
    assert "Tiger" in message
    assert registry.get("cat").cls.__name__ == "Cat"


def test_a_preset_may_not_take_a_name_either() -> None:
    registry = animals()
    with pytest.raises(RegistryError, match="registered twice"):
        registry.preset("cat", "cat")(dict)


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_the_real_registries_refuse_a_taken_name(registry: Registry[Any]) -> None:
    name = registry.names()[0]
    mine = type("Mine", (registry.base,), {})
    with registry.temporary(), pytest.raises(RegistryError, match=repr(name)) as caught:
        registry.register(name, Config)(mine)
    assert registry.get(name).defined_in in str(caught.value)
    assert "Mine" in str(caught.value)


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_the_real_registries_name_near_matches(registry: Registry[Any]) -> None:
    name = registry.names()[-1]
    with pytest.raises(RegistryError) as caught:
        registry.get(f"{name}x")
    message = str(caught.value)
    assert message.startswith(f"{registry.flag}: unknown {registry.kind} '{name}x'; did you mean '{name}'")
    assert all(known in message for known in registry.names())


def test_a_name_far_from_all_others_gets_no_suggestion() -> None:
    with pytest.raises(RegistryError, match="unknown animal 'xyzzy' Known: cat"):
        animals().get("xyzzy")


def test_presets_inherit_and_change_defaults() -> None:
    registry = animals()
    registry.preset("cat", "lame_cat")(lambda: {"legs": 3})
    registry.preset("lame_cat", "named_cat")(lambda: {"name": "Tom"})
    assert registry.get("named_cat").overrides == {"legs": 3, "name": "Tom"}
    assert registry.get("named_cat").cls is registry.get("cat").cls


def test_a_preset_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(RegistryError, match="animal 'winged' sets 'wings', which is no option of 'cat'"):
        animals().preset("cat", "winged")(lambda: {"wings": 2})


def test_a_preset_of_an_unknown_entry_is_refused() -> None:
    with pytest.raises(RegistryError, match="unknown animal 'cta'; did you mean 'cat'"):
        animals().preset("cta", "other")(dict)


def test_a_foreign_class_is_refused() -> None:
    with pytest.raises(RegistryError, match="must derive from Animal"):
        animals().register("stone", Config)(object)


def test_a_config_must_be_a_dataclass() -> None:
    class Dog(Animal):
        pass

    with pytest.raises(RegistryError, match="must be a dataclass"):
        animals().register("dog", dict)(Dog)


def test_temporary_forgets_also_after_an_error() -> None:
    registry = animals()

    def register_and_fail() -> None:
        with registry.temporary():
            registry.preset("cat", "lion")(dict)
            assert "lion" in registry.names()
            raise KeyError

    with pytest.raises(KeyError):
        register_and_fail()
    assert registry.names() == ["cat"]


def test_a_hint_goes_into_the_message() -> None:
    with pytest.raises(RegistryError, match="cat; the checkpoint came from elsewhere"):
        animals().get("dog", "; the checkpoint came from elsewhere")

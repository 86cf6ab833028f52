# A model's configuration out of plain values, as settings and stores give them.
from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass, replace
from typing import TypeVar

from models.base import Model

_Config = TypeVar("_Config")
Configs = Mapping[str, Mapping[str, object]]  # model → key → plain value


class WrongConfiguration(ValueError):  # noqa: N818
    """A model cannot be built as it is asked for; the text names model and key."""


def configured(name: str, default: _Config, values: Mapping[str, object]) -> _Config:
    """The default with these values in place of its own; a list stands for a tuple, text or a whole number for a
    number.

    Raises WrongConfiguration naming the model and the key where there is no such key, or the value is of another kind.
    """
    assert is_dataclass(default)
    kinds = {field.name: type(getattr(default, field.name)) for field in fields(default)}
    found: dict[str, object] = {}
    for key, value in values.items():
        if key not in kinds:
            raise WrongConfiguration(f"model {name!r} has no setting {key!r}; it has {', '.join(sorted(kinds))}")
        if kinds[key] is tuple and isinstance(value, list):
            value = tuple(value)
        if kinds[key] in (int, float) and type(value) in (str, int):  # text: a setting that came from the environment
            with suppress(ValueError):
                value = kinds[key](value)
        if type(value) is not kinds[key]:
            raise WrongConfiguration(f"model {name!r}: {key} = {value!r} is not of type {kinds[key].__name__}")
        found[key] = value
    return replace(default, **found)  # type: ignore[type-var]


def config_of(model: Model) -> dict[str, object]:
    """The configuration that a model was built with, as plain values: it decides whether stored rows fit it."""
    config = getattr(model, "config", None)
    return asdict(config) if is_dataclass(config) and not isinstance(config, type) else {}


def configs_of(models: Mapping[str, Model]) -> dict[str, dict[str, object]]:
    """The configurations of models, by name."""
    return {name: config_of(model) for name, model in models.items()}

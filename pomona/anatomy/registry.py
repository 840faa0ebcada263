"""Which shape a model has: a table from `model_type` to the declarations, open to the user's own."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from pomona.anatomy import shapes
from pomona.anatomy.declaration import Shape
from pomona.ground.errors import ConfigError, UnsupportedModel, did_you_mean

_REGISTERED: dict[str, Shape] = {}


@cache
def _shipped() -> dict[str, Shape]:
    """The declarations in `pomona/anatomy/shapes`."""
    found = {}
    for module in pkgutil.iter_modules(shapes.__path__):
        for value in vars(importlib.import_module(f"{shapes.__name__}.{module.name}")).values():
            if isinstance(value, Shape):
                found[value.name] = value
    return found


def known_shapes() -> dict[str, Shape]:
    """Every declaration by name; the user's own replace shipped ones of the same name."""
    return {**_shipped(), **_REGISTERED}


def register(shape: Shape) -> None:
    """Add a declaration. For its `model_types` it takes precedence over the shipped ones.

    Run `pomona.anatomy.verify` on a tiny random model of the family first: a declaration is believed by every method.
    """
    _REGISTERED[shape.name] = shape


def unregister(name: str) -> None:
    """Remove a declaration that was added with `register`."""
    if name not in _REGISTERED:
        raise ConfigError(f"no shape {name!r} was registered", do=did_you_mean(name, _REGISTERED))
    del _REGISTERED[name]


def shape_named(name: str) -> Shape:
    """The declaration called `name`."""
    known = known_shapes()
    if name not in known:
        raise ConfigError(f"there is no shape {name!r}", do=did_you_mean(name, known))
    return known[name]


def shape_of(model_type: str) -> Shape | None:
    """The declaration for a `model_type`, or None; of several, the one that was registered last."""
    return next((s for s in reversed(known_shapes().values()) if model_type in s.model_types), None)


def shapes_of(config: Any) -> list[Shape]:
    """The declarations for a configuration, those registered last first; several for models with several towers."""
    model_type = str(getattr(config, "model_type", ""))
    return [
        shape
        for shape in reversed(known_shapes().values())
        if model_type in shape.model_types and all(getattr(config, name, None) == value for name, value in shape.when)
    ]


def shapes_for(model: Any) -> list[Shape]:
    """The declarations for a model: of its configuration, those whose tower it has."""
    fitting = shapes_of(model.config)
    here = [shape for shape in fitting if shape.body is not None and hasattr(model, shape.body)]
    return here or fitting


def unknown(model_name: str, model_type: str, fitting: list[str]) -> UnsupportedModel:
    """The error for a model without a declaration; `fitting` names the shapes that its modules would fit."""
    known = ", ".join(sorted(t for s in known_shapes().values() for t in s.model_types))
    remedy = (
        f"its modules fit the shape {fitting[0]!r}: prove it with anatomy.verify(tiny_model, shape={fitting[0]!r}), "
        f"then use anatomy.of(model, shape={fitting[0]!r})"
        if fitting
        else "declare its shape (a dataclass of module paths: anatomy.draft(tiny_model) proposes one) and call "
        "anatomy.register(shape), or choose a model of a known type"
    )
    return UnsupportedModel(
        f"{model_name} has no anatomy",
        needs=f"a declaration for model_type {model_type!r}; known: {known}",
        found="none",
        do=remedy,
    )

"""Guests: what is attached to a model without being one of its parts, as adapters are.

They live in a module of the model called `adapters`, or wrap a linear map, which then is their `base_layer` (as peft
does it). The anatomy sees the map inside; to edit the model, guests are merged first.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

GUESTS = "adapters"
"""The name of the module that holds them."""
KEEPS = "pomona_adapter"
"""The field of a configuration that names the adapter which a saved model keeps, because it cannot be merged."""
WRAPPED = "base_layer"
"""The name of a map inside of what wraps it."""


def peeled(path: str, module: nn.Module) -> tuple[str, nn.Module]:
    """A module and its path, or where something wraps it those of what is inside."""
    while isinstance(inner := module._modules.get(WRAPPED), nn.Module):
        path, module = f"{path}.{WRAPPED}", inner
    return path, module


def guests_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are guests, by name."""
    return dict(_guests(model, "", False))


def _guests(module: nn.Module, path: str, guest: bool) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module._parameters.items():
        if guest and parameter is not None:
            yield f"{path}{name}", parameter
    wraps = isinstance(module._modules.get(WRAPPED), nn.Module)
    for name, child in module._modules.items():
        if child is not None:
            attached = name == GUESTS if not path else wraps
            yield from _guests(child, f"{path}{name}.", (guest or attached) and name != WRAPPED)

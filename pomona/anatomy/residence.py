"""Where a module is while it works: on another device than at home, for as long as it is needed there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Residence:
    """A device on which one module at a time works; without a device, nothing moves.

    Parameters stay the objects that they are, so that views of them keep their hold.
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self.device = None if device is None else torch.device(device)

    @contextmanager
    def of(self, module: nn.Module) -> Iterator[None]:
        """Within the block, a module is on the device; then it goes home, with what was changed.

        What comes back as it went is put where it was, so that weights which are mapped from a file still take no
        memory of their own afterwards.
        """
        if self.device is None:
            yield
            return
        left = {id(tensor): (tensor, tensor.data) for tensor in _tensors(module)}
        for tensor, data in left.values():
            self._put(tensor, self.there(data))
        try:
            yield
        finally:
            home = next(data for _, data in left.values())
            for tensor in _tensors(module):
                _, data = left.get(id(tensor), (None, home))
                returned = self.back(tensor.data, data)
                self._put(tensor, data if torch.equal(returned, data) else returned)

    def _put(self, tensor: Tensor, data: Tensor) -> None:
        gradient = tensor.grad
        tensor.grad = None
        tensor.data = data
        if gradient is not None:
            tensor.grad = self.back(gradient, data)

    def there(self, value: Any) -> Any:
        """Every tensor in `value` (in tuples, lists and dicts) on the device."""
        device = self.device
        return value if device is None else each_tensor(value, lambda tensor: tensor.to(device))

    def back(self, value: Any, like: Tensor) -> Any:
        """Every tensor in `value` where `like` is."""
        return each_tensor(value, lambda tensor: tensor.to(like.device))

    @contextmanager
    def visits(self, module: nn.Module) -> Iterator[None]:
        """Within the block, a module is on the device during each of its calls, and what it gives comes back."""
        if self.device is None:
            yield
            return
        stay = ExitStack()
        given: list[Tensor] = []

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given[:] = [args[0] if args else kwargs["hidden_states"]]
            stay.enter_context(self.of(module))
            return self.there((args, kwargs))

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            stay.close()
            return self.back(output, given.pop())

        with stay, ExitStack() as hooks:
            hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
            yield


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` of every tensor in it: in tuples, lists and dicts; anything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: each_tensor(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(each_tensor(inner, change) for inner in value)
    return value

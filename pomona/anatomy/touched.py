"""touched: a method that changes nothing is an error, not a quiet success."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

from torch import Tensor

from pomona.anatomy.body import Anatomy
from pomona.ground.errors import ConfigError


@contextmanager
def touched(model: Any, method: str) -> Iterator[None]:
    """Within the block, a method edits a model. At its end, an untouched model is an error.

    Nothing is copied: parameters and buffers are known by themselves and by torch's count of their in-place edits, so
    that a value which is written again counts as touched. Edits through `.data` go unseen; use `Weight.write_`.

    Args:
        model: a transformers model, or its anatomy.
        method: how the error names who did nothing.
    Raises:
        ConfigError: no parameter, buffer or field of the configuration was replaced, added, removed or written.
    """
    module = model.model if isinstance(model, Anatomy) else model
    before, config = _state(module), module.config.to_dict()
    yield
    after = _state(module)
    same = before.keys() == after.keys() and all(
        kept() is tensor() and edits == others
        for (kept, edits), (tensor, others) in zip(before.values(), after.values(), strict=True)
    )
    if same and config == module.config.to_dict():
        raise ConfigError(
            f"{method} changed nothing in {type(module).__name__}",
            needs="at least one parameter, buffer or field of the configuration to change",
            found=f"{len(after)} tensors as they were",
            do="choose parameters of the method under which it does something, or leave it out",
        )


def _state(module: Any) -> dict[str, tuple[ref[Tensor], int]]:
    """Every parameter and buffer by name: itself, without keeping it alive, and how often it was edited."""
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return {name: (ref(tensor), tensor._version) for name, tensor in tensors}

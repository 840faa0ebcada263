"""What enters the blocks of a model: its embeddings as its own forward makes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pomona.anatomy.body import Anatomy
from pomona.anatomy.weight import Weight
from pomona.ground.errors import UnsupportedModel


class _Entered(Exception):
    """Ends a forward pass where the blocks begin."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def entrance(body: Anatomy) -> nn.Module:
    """The module that reads the finished embeddings: the map to the width of the blocks if there is one, or the first
    block."""
    projection = body.around.get("embedding_projection")
    return projection.owner if isinstance(projection, Weight) else body.blocks[0].module


def entering(body: Anatomy, **inputs: Any) -> Tensor:
    """(B, T, E) embeddings, with positions, token types and norm as the model has them; differentiable.

    The model's own forward runs up to its first block and no further. E is the width of the token table.

    Args:
        inputs: as for the model.
    Raises:
        UnsupportedModel: the forward never comes to its first block.
    """

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Entered(args[0] if args else kwargs["hidden_states"])

    handle = entrance(body).register_forward_pre_hook(leave, with_kwargs=True)
    try:
        body.hidden(**inputs)
    except _Entered as entered:
        return entered.hidden
    finally:
        handle.remove()
    raise UnsupportedModel(
        f"the embeddings of {type(body.model).__name__} cannot be taken out",
        needs="a forward pass that calls its first block",
        found="one that does not",
    )

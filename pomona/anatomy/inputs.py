"""Random inputs of the form that a model takes: token ids, images, sounds, masks."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pomona.anatomy.surroundings import Input
from pomona.anatomy.weight import Weight

if TYPE_CHECKING:
    from pomona.anatomy.body import Anatomy


def example_inputs(body: Anatomy, batch: int = 2, tokens: int = 12, seed: int = 1) -> dict[str, Tensor]:
    """Keyword arguments of the model's forward: random numbers where it takes numbers, ids where it takes tokens.

    Ids with a meaning of their own (padding, masks) do not occur, except that sequences end with the one that says so:
    some models look for it. A model with several towers gets the inputs of all of them.

    Args:
        tokens: length of a sequence of ids, at most the model's positions; a decoder gets a shorter one. Images and
            sounds have the size that the configuration says.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs: dict[str, Tensor] = {}
    for one in (body, *body.beside()):
        inputs |= _own_inputs(one, batch, tokens, generator)
    return inputs


@dataclass(frozen=True)
class PictureInput:
    """What pictures a model reads.

    Attributes:
        shape: channels, height and width.
        patch: height and width of the pieces that it cuts them into.
        patches: how many; pixels that do not fill one are not read.
    """

    shape: tuple[int, int, int]
    patch: tuple[int, int]
    patches: int


def picture_input(body: Anatomy) -> PictureInput | None:
    """What pictures a model reads; None where it starts from something else."""
    declared = next((each for each in body.shape.inputs if each.name == "pixel_values"), None)
    stem = body.around.get("patch")
    if body.embedding is not None or declared is None or not isinstance(stem, Weight):
        return None
    if not isinstance(stem.owner, nn.Conv2d) or len(sides := sides_of(body.config, declared)) != 3:
        return None
    channels, height, width = sides
    high, wide = stem.owner.kernel_size
    down, right = stem.owner.stride
    patches = ((height - high) // down + 1) * ((width - wide) // right + 1)
    return PictureInput((channels, height, width), (high, wide), patches)


def special_ids(body: Anatomy) -> list[int]:
    """Token ids that the configuration gives a meaning, as padding."""
    names = [name for name in vars(body.config) if name.endswith("_token_id")]
    values = {getattr(body.config, name) for name in names}
    return sorted(value for value in values if isinstance(value, int) and 0 <= value < body.vocab_size)


def _own_inputs(body: Anatomy, batch: int, tokens: int, generator: torch.Generator) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    if body.embedding is not None:
        special = special_ids(body)
        plain = torch.tensor([i for i in range(body.vocab_size) if i not in special])
        tokens = min(tokens, body.max_positions or tokens)
        inputs["input_ids"] = plain[torch.randint(len(plain), (batch, tokens), generator=generator)]
        end = getattr(body.config, "eos_token_id", None)
        if end in special and end != getattr(body.config, "pad_token_id", None):
            inputs["input_ids"][:, -1] = end
        if len(body.stacks) > 1:
            inputs["decoder_input_ids"] = plain[torch.randint(len(plain), (batch, 7), generator=generator)]
    for declared in body.shape.inputs:
        if declared.sides is not None:
            inputs[declared.name] = torch.randn((batch, *sides_of(body.config, declared)), generator=generator).to(
                body.dtype
            )
    lacks_mask = "mask_token" not in body.around and any(part.role == "mask_token" for part in body.shape.around)
    for declared in () if lacks_mask else body.shape.inputs:
        if declared.sides is None and declared.name in inspect.signature(body.model.forward).parameters:
            with torch.no_grad():
                made = body.hidden(**inputs).shape[1] - body.own_tokens
            inputs[declared.name] = torch.rand((batch, made), generator=generator) < 0.5
    return inputs


def sides_of(config: Any, declared: Input) -> list[int]:
    """The sizes of an input; a field that holds a pair gives them in turn."""
    assert declared.sides is not None
    sizes: list[int] = []
    for place, side in enumerate(declared.sides):
        value = side if isinstance(side, int) else getattr(config, side)
        if not isinstance(value, int):
            value = value[declared.sides[:place].count(side)]
        sizes.append(int(value))
    return sizes

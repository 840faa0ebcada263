"""What an edit refuses, by name and before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pomona.anatomy.capabilities import MEANING
from pomona.anatomy.following import Change, change_along
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.lab import outputs_of
from pomona.anatomy.space import Space
from pomona.anatomy.weight import Weight
from pomona.ground.errors import ConfigError, UnsupportedModel

if TYPE_CHECKING:
    from pomona.anatomy.body import Anatomy


def require_groups(space: Space, parent: Space, source: Tensor) -> None:
    """Every coordinate of the parent keeps an equal run of `space`, in its place."""
    old, new = space.size // parent.size, len(source) // parent.size
    owners = torch.arange(parent.size).repeat_interleave(max(new, 1))
    if len(source) % parent.size or not torch.equal(source // old, owners):
        counts = torch.bincount(source // old, minlength=parent.size).tolist()
        raise ConfigError(
            f"the coordinates of {space} do not stay in equal groups",
            needs=f"as many for each of {parent}, in their order",
            found=f"{counts} of {old} each",
            do=f"choose the same number in each group, or change {parent.name} instead",
        )


def require_separate_heads(body: Anatomy, space: Space, source: Tensor) -> None:
    """Refuse to leave heads out where a norm takes its mean over all of them."""
    norms = [norm for attention in body.attentions() for norm in attention.norms()]
    whole = [norm.gain.name for norm in norms if norm.gain.axes[0].has(space)]
    if whole and len(set(source.tolist())) < space.size:
        raise UnsupportedModel(
            f"{space} of {type(body.model).__name__} cannot be cut (nothing was changed)",
            needs=f"{MEANING['separate_heads']} (separate_heads), so that a head that is cut equals one that is masked",
            found=f"{whole[0]}, which takes its mean over all heads",
            do="cut features or blocks, or choose a model with norms of single heads or none",
        )


def require_unseen_alike(body: Anatomy, new: Anatomy) -> None:
    """Refuse to change a size on which a parameter hangs that the anatomy does not see."""
    for name in (*body.unseen, *body.elsewhere):
        before, after = body.model.get_parameter(name), new.model.get_parameter(name)
        if before.shape != after.shape:
            raise UnsupportedModel(
                f"{type(body.model).__name__} cannot be edited so (nothing was changed)",
                needs="weights whose axes are known wherever the size matters",
                found=f"{name}, which the declaration of its shape does not cover",
                do="load the model without that head, or declare the part",
            )


def require_same_parts(body: Anatomy, new: Anatomy, changes: Mapping[Space, Change]) -> None:
    """Refuse sizes for which the configuration asks for other parts, or for other sizes of what did not change."""
    found = ""
    pairs = list(zip(body.parts(), new.parts(), strict=False))
    roles = [[part.role for part in each.parts()] for each in (body, new)]
    if roles[0] != roles[1]:
        found = (
            f"{len(roles[1])} parts instead of {len(roles[0])}: the configuration asks for others, such as a "
            "projection of embeddings that are narrower than the blocks"
        )
    elif wrong := [part.name for part, fresh in pairs if _shape_after(part, changes) != fresh.shape]:
        found = f"another size of {', '.join(wrong[:3])}, which does not change with them"
    if found:
        raise UnsupportedModel(
            f"the sizes of {type(body.model).__name__} cannot change so (nothing was changed)",
            needs="the same parts at the new sizes",
            found=found,
            do="leave this space as it is",
        )


def _shape_after(part: Weight, changes: Mapping[Space, Change]) -> tuple[int, ...]:
    """The canonical shape of a weight after the changes."""
    along = [change_along(axis, changes) for axis in part.axes]
    return tuple(a.size if c is None else len(c.source) for a, c in zip(part.axes, along, strict=True))


def require_runs(body: Anatomy) -> None:
    """Run the edited model on a few tokens."""
    device = next(body.model.parameters()).device
    if device.type == "meta":
        return
    body.model.to(device)
    inputs = {name: value.to(device) for name, value in example_inputs(body, batch=1, tokens=4).items()}
    try:
        outputs = outputs_of(body, inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise UnsupportedModel(
            f"{type(body.model).__name__} does not run with these sizes (nothing was changed)",
            found=" ".join(str(error).split())[:300],
            do="choose other sizes",
        ) from error
    if not bool(outputs.isfinite().all()):
        raise UnsupportedModel(
            f"{type(body.model).__name__} gives numbers that are not finite after this edit (nothing was changed)",
            do="check the values that were written and the factors",
        )

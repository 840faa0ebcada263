"""Taps at the maps of single experts, which no module computes alone.

transformers keeps the experts of a block in one module with parameters of three axes, called with the tokens, the
numbers of their experts and the weights of these. What one expert gets follows from that; what it would give with other
inputs or outputs is computed again for its tokens, and the difference is added to what the module gave. Several taps at
the maps of one expert do not see one another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pomona.anatomy.weight import Weight
from pomona.ground.errors import UnsupportedModel

Through = Callable[[Tensor], Tensor | None]
"""What happens to a tensor on its way: another takes its place, or it stays (None)."""


def expert_hook(weight: Weight, inputs: Through | None = None, outputs: Through | None = None) -> Callable[..., Any]:
    """A forward hook for the module of experts, through which the inputs or outputs of one expert's map pass.

    Neither is called when the router sends no token to the expert.

    Args:
        weight: a map of one expert (`expert` is set).
        inputs: gets (tokens of this expert, inputs).
        outputs: gets (tokens of this expert, outputs).
    """

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        assert weight.expert is not None
        hidden, experts, shares = _arguments(module, args, kwargs)
        tokens, places = experts.eq(weight.expert).nonzero(as_tuple=True)
        if not len(tokens):
            return None
        rows = hidden.reshape(-1, hidden.shape[-1])[tokens]
        passing = _Passing(weight, inputs, outputs)
        changed = passing.through(module, rows)
        if not passing.changed:
            return None
        plain = _Passing(weight, None, None).through(module, rows)
        difference = (changed - plain) * shares[tokens, places, None]
        return output.reshape(-1, output.shape[-1]).index_add(0, tokens, difference.to(output.dtype)).view_as(output)

    return hook


def put(outputs: Tensor, rows: slice | Tensor | None, own: Tensor) -> Tensor:
    """(..., outputs) with those at `rows` replaced by `own`; all of them if `rows` is None."""
    if rows is None:
        return own
    outputs = outputs.clone()
    outputs[..., rows] = own
    return outputs


@dataclass
class _Passing:
    """One pass of rows through an expert."""

    weight: Weight
    inputs: Through | None
    outputs: Through | None
    changed: bool = False

    def through(self, module: Any, rows: Tensor) -> Tensor:
        """What the expert gives for its (tokens, hidden)."""
        inner = self._map(module, "gate_up_proj" if module.has_gate else "up_proj", rows)
        inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
        given = self._map(module, "down_proj", inner)
        return module.post_expert_norm(given) if module.has_post_expert_norm else given

    def _map(self, module: Any, name: str, given: Tensor) -> Tensor:
        """What one parameter makes of (tokens, inputs), with those of `weight` passed through if it is there."""
        parameter = getattr(module, name)[self.weight.expert]
        bias = getattr(module, f"{name}_bias")[self.weight.expert] if module.has_bias else None
        made = nn.functional.linear(given, parameter.T if module.is_transposed else parameter, bias)
        if self.weight.attribute != name:
            return made
        rows = self.weight.rows
        if self.inputs is not None and (new := self.inputs(given)) is not None:
            made, self.changed = put(made, rows, self.weight.apply(new)), True
        if self.outputs is not None and (new := self.outputs(made if rows is None else made[:, rows])) is not None:
            made, self.changed = put(made, rows, new), True
        return made


def _arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, hidden), (tokens, active) numbers of experts, (tokens, active) their shares."""
    given = (*args, *kwargs.values())
    if len(given) != 3 or not hasattr(module, "has_gate") or given[1].dtype not in (torch.int32, torch.int64):
        raise UnsupportedModel(
            f"the experts of {type(module).__name__} cannot be tapped one by one",
            needs="a module that is called with tokens, numbers of experts and their shares",
            found=f"{len(given)} arguments",
            do="tap the branch of the block instead",
        )
    hidden, experts, shares = given
    return hidden, experts.reshape(-1, experts.shape[-1]), shares.reshape(-1, shares.shape[-1])

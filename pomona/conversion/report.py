"""What a conversion tells of its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.lab import outputs_of

if TYPE_CHECKING:
    from pomona.anatomy import Anatomy


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Args:
        parameters_before, parameters_after: of the whole model.
        hidden_before, hidden_after: features of the residual stream.
        difference: largest difference of the outputs on a few random inputs, relative to the largest output; None for a
            model without values. Rounding alone, where a method keeps the function.
        loads_with: what loads the saved folder: any transformers, or `pomona.anatomy.load` (no code is stored or run).
        seconds: it took.
        cache_before, cache_after: bytes that generation keeps of each token; None where the method leaves them alone.
    """

    parameters_before: int
    parameters_after: int
    hidden_before: int
    hidden_after: int
    difference: float | None
    loads_with: Literal["transformers", "pomona"]
    seconds: float
    cache_before: int | None = None
    cache_after: int | None = None


def answers(body: Anatomy) -> Tensor | None:
    """What the model answers to a few random inputs; None without values."""
    device = next(body.model.parameters()).device
    if device.type == "meta":
        return None
    training = body.model.training
    body.model.eval()
    try:
        return outputs_of(body, {name: value.to(device) for name, value in example_inputs(body).items()})
    finally:
        body.model.train(training)

"""Run an unknown model: inputs that it takes, what flows through its modules, and what a change of one output moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from pomona.anatomy.find import is_linear, join
from pomona.anatomy.inputs import sides_of
from pomona.anatomy.probes.lab import PLACE, enlarged
from pomona.anatomy.registry import known_shapes
from pomona.anatomy.surroundings import Input
from pomona.ground.errors import UnsupportedModel

FACTOR = -2.0
"""What an output is multiplied by: only a linear map's reader follows (a ReLU follows positive factors, a tanh -1)."""
MOVED = 1e-6
"""Smallest change, relative to the largest number, that is not rounding."""
IMPOSSIBLE = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError)
"""What a model may raise when it is given inputs of another form than it takes."""


@dataclass
class Flow:
    """What entered and left the modules in one forward pass, at their first calls, in the order of the calls.

    All of it is (batch, positions, features), also where a model lays all sequences in one row.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    tuples: dict[str, int] = field(default_factory=dict)
    """Length of what a module returned, where that was a tuple."""


class Runs:
    """Experiments on a copy of a model with large random weights.

    Attributes:
        model: the copy, in float64.
        body: path of the module that gives hidden states.
        inputs: keyword arguments that it takes, one sequence.
        declared: those of them that are not token ids.
        plain: what flows when nothing is changed.
    """

    def __init__(self, model: Any) -> None:
        self.model = enlarged(model)
        if any(parameter.dim() == 3 for parameter in self.model.parameters()):
            self.model.set_experts_implementation("eager")  # the grouped products do not know float64
        self.body = next(name for name, module in self.model.named_modules() if module is self.model.base_model)
        self.declared, self.inputs = self._find_inputs()
        with torch.no_grad():
            self.plain = self.flow(self.inputs)

    def module(self, path: str) -> Any:
        return self.model.get_submodule(path)

    def linears(self, below: str = "") -> list[str]:
        """Paths of the linear maps that are called, in the order of the calls."""
        inside = [name for name in self.plain.inputs if not below or name.startswith(f"{below}.")]
        return [name for name in inside if is_linear(self.module(name))]

    def norms(self, below: str = "") -> list[str]:
        """Paths of the norms that are called: modules with a gain, and a number that is added to a mean square."""
        inside = [name for name in self.plain.inputs if not below or name.startswith(f"{below}.")]
        return [name for name in inside if _is_norm(self.module(name))]

    def giving(self, wanted: Tensor, names: Iterable[str]) -> str | None:
        """The first of some modules that gives these numbers."""
        return next((name for name in names if same(self.plain.outputs[name], wanted)), None)

    def reading(self, wanted: Tensor, names: Iterable[str]) -> str | None:
        """The first of some modules that gets these numbers."""
        return next((name for name in names if same(self.plain.inputs[name], wanted)), None)

    def flow(self, inputs: dict[str, Tensor], path: str | None = None, change: Any = None) -> Flow:
        """One forward pass, in which one module's output is changed."""
        flow, batch = Flow(), next(iter(inputs.values())).shape[0]
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                hook = _hook(flow, name, batch, change if name == path else None)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            self.model(**inputs)
        return flow

    @torch.no_grad()
    def shaken(self, path: str) -> dict[str, Tensor]:
        """What each output of a linear map moves in the inputs of every module.

        Output r, at one position, is multiplied by `FACTOR` in the r-th of as many copies of the sequence.

        Returns:
            By path of the reader: (rows, T, features) differences, exactly zero where they are rounding.
        """
        rows = torch.arange(self.plain.outputs[path].shape[-1])

        def change(output: Tensor) -> Tensor:
            output = output.clone()
            output.view(len(rows) + 1, -1, len(rows))[rows, PLACE, rows] *= FACTOR
            return output

        copies = {name: value.repeat(len(rows) + 1, *[1] * (value.dim() - 1)) for name, value in self.inputs.items()}
        after = self.flow(copies, path, change).inputs
        moved = {name: value[:-1] - value[-1:] for name, value in after.items() if value.is_floating_point()}
        return {name: torch.where(by.abs() > MOVED * after[name].abs().max(), by, 0.0) for name, by in moved.items()}

    def _find_inputs(self) -> tuple[tuple[Input, ...], dict[str, Tensor]]:
        for declared, given in self._candidates():
            try:
                with torch.no_grad():
                    self.model(**given)
            except IMPOSSIBLE:
                continue
            return declared, given
        raise UnsupportedModel(
            f"no inputs for {type(self.model).__name__} were found",
            needs=f"inputs of a known form for {self.model.main_input_name!r}",
            found="none that it takes",
            do="declare the shape by hand, with its inputs: see pomona/anatomy/declaration.py",
        )

    def _candidates(self) -> Iterator[tuple[tuple[Input, ...], dict[str, Tensor]]]:
        """Inputs of every form that any shape is known to take."""
        generator = torch.Generator().manual_seed(1)
        words = self.model.get_input_embeddings()
        if isinstance(words, nn.Embedding):
            special = {v for k, v in vars(self.model.config).items() if k.endswith("_token_id") and isinstance(v, int)}
            plain = torch.tensor([i for i in range(words.num_embeddings) if i not in special])
            ids = {"input_ids": plain[torch.randint(len(plain), (1, 12), generator=generator)]}
            if self.model.config.is_encoder_decoder:
                ids["decoder_input_ids"] = plain[torch.randint(len(plain), (1, 7), generator=generator)]
            yield (), ids
        for given in dict.fromkeys(given for shape in known_shapes().values() for given in shape.inputs):
            if given.sides is not None and given.name == self.model.main_input_name:
                try:
                    sides = sides_of(self.model.config, given)
                except IMPOSSIBLE:
                    continue
                yield (given,), {given.name: torch.randn((1, *sides), generator=generator, dtype=torch.float64)}


def same(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding, whatever their axes."""
    if one.numel() != other.numel() or not one.is_floating_point():
        return False
    return bool((one.flatten() - other.flatten()).abs().max() <= 1e-5 * other.abs().max())


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 1 and isinstance(epsilon, float)


def _hook(flow: Flow, path: str, batch: int, change: Any) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        first = path not in flow.outputs
        given = _by_position(args[0] if args else kwargs.get("hidden_states"), batch)
        result = next(iter(output.values()), None) if isinstance(output, ModelOutput) else output
        if isinstance(result, tuple):
            flow.tuples.setdefault(path, len(result))
            result = result[0] if result else None
        left = _by_position(result, batch)
        if not first or left is None:
            return None
        flow.outputs[path] = left
        if given is not None:
            flow.inputs[path] = given
        return None if change is None else change(output)

    return hook


def _by_position(value: Any, batch: int) -> Tensor | None:
    """A tensor as (batch, positions, features); None when it is something else."""
    if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[0] % batch:
        return None
    return value.reshape(batch, -1, value.shape[-1])


__all__ = ["FACTOR", "PLACE", "Runs", "join", "same"]

"""MEFT: make a trained model reversible around small adapters, so that fine-tuning stores hardly any activation.

Source: "Make Pre-trained Model Reversible: From Parameter to Memory Efficient Fine-Tuning", NeurIPS 2023,
    arXiv:2306.00477.
Implements: two streams that both begin as the embedding; y1 = lam x1 + F(x2), y2 = beta x2 + G(y1), then they change
    places; their mean leaves the last block. Variant 1: F is the block with an adapter beside its feed-forward, G an
    adapter, lam 0.1, beta 1. Variant 2: F is an adapter, G the block, lam 1, beta 0.1. Small up-projections keep the
    start near the model.
Deviations: an anchor every `anchors` blocks stops rounding from growing tenfold at each inversion (the paper has none).
Left out: variant 3, which cuts each block between attention and feed-forward.
Use when: memory for activations is what is short. Cost: 1.3 to 1.6 times the time of adapters, as blocks run twice.
Relations: adapters with gradient checkpointing keep one state for each block; this keeps one for each `anchors`.
Limits: one stack of blocks that return hidden states alone; cannot be merged: the result keeps both streams, and is
    loaded with `pomona.adapters.load`. Starts near the model, not at it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Cache
from transformers.activations import ACT2FN

from pomona.adapters.adapter import Adapter, freeze_except
from pomona.adapters.reversible import Segment, Step
from pomona.anatomy import GUESTS, Anatomy, Block, guests_of
from pomona.ground.config import MethodConfig
from pomona.ground.errors import DamagedArtefact, UnsupportedModel
from pomona.ground.files import write_json

FACTORS = {1: (0.1, 1.0), 2: (1.0, 0.1)}
"""Variant -> (lam, beta), the paper's."""
ACTIVATIONS = ("hidden_act", "activation_function", "hidden_activation", "activation")


class MeftConfig(MethodConfig):
    """Make the model reversible, and train small adapters."""

    method: Literal["meft"] = "meft"
    variant: Literal[1, 2] = 1
    """Which function is the block: F (1) or G (2)."""
    bottleneck: PositiveInt = 8
    """Width of the adapters (the paper's for variants 1 and 2)."""
    std: float = Field(default=0.02, ge=0.0)
    """Spread of the up-projections at the start; 0: zeros."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Inside of the adapters."""
    blocks: int | None = Field(default=None, ge=0)
    """How many of the first blocks are reversible; those after them are trained in the ordinary way. Default: all."""
    anchors: PositiveInt = 6
    """Blocks between two states that are stored; the pure method stores none: a number above that of the blocks."""

    def attach_(self, body: Anatomy, *, head: Sequence[nn.Parameter] = (), seed: int = 0) -> Adapter:
        """Make the model reversible; adapters are drawn from `seed`."""
        return meft_(body, self, head=head, seed=seed)


class Bottleneck(nn.Module):
    """up(dropout(act(down(x)))), with biases that begin at 0."""

    def __init__(
        self, features: int, config: MeftConfig, activation: Callable[[Tensor], Tensor], draws: torch.Generator
    ) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(features, config.bottleneck), nn.Linear(config.bottleneck, features)
        self.dropout = config.dropout
        vars(self)["activation"] = activation
        with torch.no_grad():
            for linear, std in ((self.down, 0.02), (self.up, config.std)):
                linear.weight.normal_(0.0, 1.0, generator=draws).mul_(std)
                linear.bias.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(self.down.weight.dtype)
        inner: Tensor = vars(self)["activation"](self.down(hidden))
        output: Tensor = self.up(nn.functional.dropout(inner, self.dropout, self.training))
        return output


class MeftAdapter(Adapter):
    """A model on two streams.

    Every block but the last hands its input on and remembers how it was called; the last one carries out all of them.
    """

    mergeable = False
    exact_start = False

    def __init__(self, body: Anatomy, config: MeftConfig, head: Sequence[nn.Parameter], seed: int) -> None:
        _require(body)
        self.body, self.config, self.stack = body, config, body.stacks[0]
        draws = torch.Generator().manual_seed(seed)
        activation = activation_of(body)

        def adapters() -> nn.ModuleList:
            made = [Bottleneck(body.hidden_size, config, activation, draws) for _ in self.stack.blocks]
            return nn.ModuleList(made).to(body.model.device)

        self.beside, self.between = adapters(), adapters()
        body.model.add_module(GUESTS, nn.ModuleList([self.beside, self.between]))
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        lam, beta = FACTORS[config.variant]
        self.segment = Segment([], lam, beta, config.anchors)
        self.hooks = [hook for pair in zip(self.stack.blocks, self.beside, strict=True) for hook in _beside(*pair)]
        for index, block in enumerate(self.stack.blocks):
            _defer_(block.module, self, index)
        freeze_except(body, [*self.beside.parameters(), *self.between.parameters(), *head])

    # ---- the pass

    def reached(self, index: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What block `index` returns to the model's own loop."""
        if index == 0:
            self.calls = []
        if torch.is_grad_enabled():  # a block that runs twice would put its keys into the cache twice
            args = tuple(None if isinstance(value, Cache) else value for value in args)
            kwargs = {name: None if isinstance(value, Cache) else value for name, value in kwargs.items()}
        self.calls.append((args, kwargs))
        if index == len(self.stack.blocks) - 1:
            calls, self.calls = self.calls, []
            hidden = self._run(hidden, calls)
        return (hidden,) if self.stack.returns else hidden

    def _run(self, hidden: Tensor, calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> Tensor:
        """The mean of the streams after all blocks; `hidden` is what entered the first."""
        steps = [self._step(index, *call) for index, call in enumerate(calls)]
        count = len(steps) if self.config.blocks is None else min(self.config.blocks, len(steps))
        start = hidden if hidden.dtype == torch.float64 else hidden.float()
        if not torch.is_grad_enabled():
            count = 0
        segment = Segment(steps[:count], self.segment.lam, self.segment.beta, self.config.anchors)
        streams = (start, start)
        if count:
            self.segment = segment
            streams = segment.run(start, next(self.between.parameters()))
        for step in steps[count:]:
            streams = segment.forward(streams, step)
        return ((streams[0] + streams[1]) / 2).to(hidden.dtype)

    def _step(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step:
        module, between = self.stack.blocks[index].module, self.between[index]

        def block(hidden: Tensor) -> Tensor:
            output = vars(module)["plain"](hidden, *args, **kwargs)
            made: Tensor = output[0] if isinstance(output, tuple) else output
            return made

        return Step(block, between) if self.config.variant == 1 else Step(between, block)

    @property
    def reconstruction_error(self) -> float:
        """How far the last backward pass was off when it had computed its way back to the start, relative."""
        return self.segment.error

    # ---- life

    def merge_(self) -> None:
        """Two streams are no one's own weights.

        Raises:
            UnsupportedModel: always.
        """
        raise UnsupportedModel(
            f"meft cannot be merged into {type(self.body.model).__name__}",
            needs="a change of weights",
            found="a model on two streams",
            do="keep it with adapters.load, or adapt with lora, dylora or svfit",
        )

    def detach_(self) -> None:
        """Take everything away; the model is what it was."""
        for hook in self.hooks:
            hook.remove()
        for block in self.stack.blocks:
            _restore_(block.module)
        delattr(self.body.model, GUESTS)

    def save(self, folder: Path) -> None:
        """Write the adapters and how they are attached."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = getattr(self.body.model, GUESTS).state_dict()
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / TENSORS)
        settings = self.config.model_dump(mode="json", exclude={"method"})
        write_json(folder / CONFIG, {"format": 1, "method": self.config.method, "settings": settings})

    def load_(self, folder: Path) -> None:
        """Read what `save` wrote. Raises `DamagedArtefact` where the tensors do not fit."""
        place, saved = getattr(self.body.model, GUESTS), load_file(folder / TENSORS)
        own = {name: value.shape for name, value in place.state_dict().items()}
        if own != {name: value.shape for name, value in saved.items()}:
            raise DamagedArtefact("the adapters were made for another model", where=str(folder))
        place.load_state_dict(saved)


CONFIG, TENSORS = "adapter.json", "adapter.safetensors"


def meft_(
    body: Anatomy, config: MeftConfig | None = None, *, head: Sequence[nn.Parameter] = (), seed: int = 0
) -> MeftAdapter:
    """Make a model reversible, and let small adapters and the head be trained.

    Raises:
        UnsupportedModel: the blocks are no plain sequence, or something is attached already.
    """
    return MeftAdapter(body, config or MeftConfig(), head, seed)


def activation_of(body: Anatomy) -> Callable[[Tensor], Tensor]:
    """The activation of the model's feed-forwards, GELU where its configuration does not say."""
    names = (getattr(body.config, name, None) for name in ACTIVATIONS)
    found = next((name for name in names if isinstance(name, str) and name in ACT2FN), "gelu")
    made: Callable[[Tensor], Tensor] = ACT2FN[found]
    return made


def _require(body: Anatomy) -> None:
    """Refuse what cannot be run on two streams."""
    stack = body.stacks[0]
    reasons = {
        "two stacks": len(body.stacks) > 1,
        "something else computed between blocks": stack.interrupted,
        "blocks that return more than hidden states": stack.returns > 1,
        "experts": any(block.ffn.experts is not None for block in stack.blocks),
        "adapters that are attached already": bool(guests_of(body.model)),
    }
    if found := [reason for reason, applies in reasons.items() if applies]:
        raise UnsupportedModel(
            f"meft cannot make {type(body.model).__name__} reversible",
            needs="one plain sequence of blocks without adapters",
            found=", ".join(found),
            do="use lora, dylora or svfit",
        )


def _beside(block: Block, adapter: nn.Module) -> list[Any]:
    """Hooks that add an adapter of what enters the feed-forward to what it gives."""
    entered: list[Tensor] = []

    def enters(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        entered[:] = [args[0]]

    def leaves(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (hidden,) = entered
        entered.clear()
        added: Tensor = adapter(hidden)
        return output + added.view(output.shape).to(output.dtype)

    first = (block.ffn.gate or block.ffn.up).owner
    return [first.register_forward_pre_hook(enters), block.ffn.module.register_forward_hook(leaves)]


def _defer_(module: nn.Module, adapter: MeftAdapter, index: int) -> None:
    """Let a block ask the adapter what it returns. Its class changes, so that compiled or wrapped calls see it too."""
    plain = type(module)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        return adapter.reached(index, hidden, args[1:], kwargs)

    forward = torch.compiler.disable(forward)  # type: ignore[no-untyped-call] # the backward pass runs the blocks itself
    vars(module)["plain"] = plain.forward.__get__(module)
    vars(module)["plain_class"] = plain
    module.__class__ = type(plain.__name__, (plain,), {"forward": forward, "__module__": plain.__module__})


def _restore_(module: nn.Module) -> None:
    module.__class__ = vars(module).pop("plain_class")
    del vars(module)["plain"]

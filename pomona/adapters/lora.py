"""LoRA: add a product of two thin matrices to frozen weights. By peft, the standard implementation and format.

Source: "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv:2106.09685, Eq. 3.
Implements: nothing itself: peft attaches, merges and saves; the targets are found through the anatomy.
Deviations: modules that fuse several maps are adapted as a whole when one of them is asked for, as usual with peft.
Use when: the first choice among adapters. Cost: two thin products for each target.
Relations: `dylora` trains all ranks at once; `svfit` trains a scalar for each singular direction.
Limits: routed experts are refused. Needs peft: `pip install pomona[adapters]`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from pomona.adapters.adapter import Adapter, freeze_except
from pomona.adapters.targets import Role, targets_of
from pomona.anatomy import Anatomy, guests_of
from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError, UnsupportedModel


class LoraConfig(MethodConfig):
    """Train low-rank additions to some weights."""

    method: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    """Columns of one thin matrix and rows of the other."""
    alpha: PositiveFloat = 16.0
    """What is learnt is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Of the inputs of the adapter."""
    targets: tuple[Role, ...] = Field(default=("query", "value"), min_length=1)
    """The maps that are adapted (the paper's: queries and values)."""

    def attach_(self, body: Anatomy, *, head: Sequence[nn.Parameter] = (), seed: int = 0) -> Adapter:
        """Let peft attach the matrices, drawn from `seed`."""
        return lora_(body, self, head=head, seed=seed)


@contextmanager
def _quiet() -> Iterator[None]:
    """peft 0.21 asks transformers for `is_gradient_checkpointing`, which has another name since transformers 5."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing", category=FutureWarning)
        yield


class LoraAdapter(Adapter):
    """peft's LoRA around the model."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def merge_(self) -> None:
        """Add the products to the weights; the model's own modules are back in their places."""
        self.wrapped.merge_and_unload()

    def detach_(self) -> None:
        """Take the matrices away; the weights were never written."""
        self.wrapped.unload()

    def save(self, folder: Path) -> None:
        """Write a folder that peft loads."""
        self.wrapped.save_pretrained(folder)


def lora_(
    body: Anatomy, config: LoraConfig | None = None, *, head: Sequence[nn.Parameter] = (), seed: int = 0
) -> LoraAdapter:
    """Let peft attach LoRA to the targets, and train it and the head.

    Raises:
        ConfigError: peft is not installed.
        UnsupportedModel: a target is not there, or belongs to experts, or peft is in the model already.
    """
    config = config or LoraConfig()
    weights = targets_of(body, config.targets, config.method)
    if hasattr(body.model, "peft_config"):
        raise UnsupportedModel(
            f"lora cannot be put on {type(body.model).__name__} a second time",
            needs="a model without adapters of peft",
            found="one that is attached already",
            do="merge it first, or use dylora or svfit, which add up",
        )
    if find_spec("peft") is None:
        raise ConfigError("lora needs peft, which is not installed", do="pip install 'pomona[adapters]'")
    with _quiet():
        import peft

    paths = dict.fromkeys(weight.name.removesuffix(f".{weight.attribute}") for weight in weights)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(paths),
        fan_in_fan_out=any(weight.transposed for weight in weights),
    )
    model = body.model
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(model, settings)
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled") or module.__class__.__module__.startswith("peft."):
            module.cast_input_dtype_enabled = False  # autocast decides; a copy in float32 would be made and dropped
    body.refresh()
    freeze_except(body, [*guests_of(model).values(), *head])
    return LoraAdapter(wrapped)

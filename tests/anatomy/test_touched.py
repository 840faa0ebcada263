"""What counts as a change of a model, and that none at all is an error."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pomona.anatomy import of, touched
from pomona.ground.errors import ConfigError

from .conftest import make


def replace_parameter(model: Any) -> None:
    model.model.layers[1].mlp.down_proj.weight = nn.Parameter(torch.zeros(32, 48))


def other_width(model: Any) -> None:
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 7.0}


EDITS: dict[str, Callable[[Any], Any]] = {
    "a value is written": lambda model: of(model).blocks[0].ffn.up.write_(torch.zeros(48, 32)),
    "the same value is written": lambda model: of(model).head.write_(of(model).head.read().clone()),
    "a parameter is replaced": replace_parameter,
    "a block is removed": lambda model: of(model).restack_([0, 2]),
    "blocks change places": lambda model: of(model).restack_([1, 0, 2]),
    "a parameter is added": lambda model: model.register_parameter("more", nn.Parameter(torch.ones(1))),
    "a buffer is edited": lambda model: model.model.rotary_emb.inv_freq.mul_(2),
    "the configuration": other_width,
}


@pytest.mark.parametrize("name", list(EDITS))
def test_every_kind_of_edit_counts(name: str) -> None:
    """Breaks when a method that did its work is told that it did nothing."""
    model = make("llama")
    with torch.no_grad(), touched(model, "edit"):
        EDITS[name](model)
    with torch.device("meta"):
        plan = type(model)(make("llama").config)
    if "buffer" not in name and "added" not in name:
        with torch.no_grad(), touched(of(plan), "edit"):
            EDITS[name](plan)


def test_no_edit_is_an_error() -> None:
    """Breaks when reading, running or restacking to the same order counts as a change; other errors go through."""
    model = make("llama")

    def look() -> None:
        of(model).blocks[0].ffn.up.read()
        model(input_ids=torch.ones(1, 3, dtype=torch.int64)).logits.sum().backward()
        of(model).restack_([0, 1, 2])

    with pytest.raises(ConfigError, match="wanda changed nothing in LlamaForCausalLM"), touched(model, "wanda"):
        look()
    with pytest.raises(KeyError, match="earlier"), touched(model, "wanda"):
        raise KeyError("earlier")


def test_old_parameters_are_not_kept() -> None:
    """Breaks when the model before is kept alive until the end: a large edit would need twice the memory."""
    model = make("llama")
    old = weakref.ref(model.model.layers[1].mlp.down_proj.weight)
    with touched(model, "edit"):
        replace_parameter(model)
        assert old() is None

"""Tiny random models of every family that the anatomy knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona.anatomy import Block, Weight
from pomona.anatomy.registry import shape_of
from pomona.anatomy.tiny import TINY, VOCABULARY, tiny_model

WORDS = ("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM")
FIRST = {shape_of(tiny.model_type): name for name, tiny in reversed(TINY.items()) if tiny.auto in WORDS}
MODELS = [
    name
    for name in TINY
    if name in {*FIRST.values(), "llama-grouped-untied", "qwen3", "smollm3", "t5-gated"} - {"deberta-v2"}
]
"""One of each shape of text, and some with other options; `verify` is tried on all.

Not among them: maps that are called twice in one forward pass, once for tokens and once for relative positions.
"""
SINGLE = [name for name in MODELS if TINY[name].auto != "AutoModelForSeq2SeqLM"]
CAUSAL = [name for name in SINGLE if TINY[name].auto == "AutoModelForCausalLM"]
TOWERS = [*(name for name in TINY if name != "clip"), "clip/clip-text", "clip/clip-vision"]
"""Every tiny model; of one with several towers each, as name/shape."""


def make(name: str, **changes: Any) -> Any:
    """`tiny_model`, also for a name of `TOWERS`."""
    return tiny_model(name.partition("/")[0], **changes)


def shape_in(name: str) -> str | None:
    """The shape that a name of `TOWERS` means; None: the only one."""
    return name.partition("/")[2] or None


def modular(block: Block) -> list[Weight]:
    """The linear maps of a block that a module computes; those of experts are only parts of one."""
    return [weight for weight in block.weights() if not weight.routed]


def inputs_of(model: Any, batch: int = 2, tokens: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Random token ids in the form that the model takes."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (batch, tokens), generator=generator)
    if not model.config.is_encoder_decoder:
        return {"input_ids": ids}
    return {"input_ids": ids, "decoder_input_ids": torch.randint(2, VOCABULARY, (batch, 7), generator=generator)}


@pytest.fixture(params=MODELS)
def any_model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


@pytest.fixture(params=[name for name in MODELS if name != "mpnet"])
def attending_model(request: pytest.FixtureRequest) -> Any:
    """Models whose attention goes through transformers' interface."""
    return make(request.param)


@pytest.fixture(params=[name for name in SINGLE if name != "modernbert"])
def movable_model(request: pytest.FixtureRequest) -> Any:
    """Models whose blocks may stand in any order."""
    return make(request.param)


@pytest.fixture(params=SINGLE)
def single_model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


@pytest.fixture(params=CAUSAL)
def causal_model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)

"""Block by block equals the whole: inputs, masks, edits and memory of the walk."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from pomona.anatomy import BlockWalk, of, tap_inputs
from pomona.ground.errors import ConfigError, UnsupportedModel

from .conftest import inputs_of, make


def batches_of(model: Any) -> list[dict[str, Tensor]]:
    """Batches of several lengths, one of them padded."""
    batches = [inputs_of(model, 2, 12, 1), inputs_of(model, 1, 9, 2), inputs_of(model, 3, 7, 3)]
    batches[1]["attention_mask"] = torch.ones(1, 9, dtype=torch.int64)
    batches[1]["attention_mask"][0, 6:] = 0
    return batches


def inputs_of_blocks(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """What each block gets in the model's own forward."""
    seen: list[Tensor] = []
    handles = [b.module.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach())) for b in of(model).blocks]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return seen


def test_every_block_gets_the_inputs_of_the_full_forward(any_model: Any) -> None:
    """Breaks when a mask, a window of another block, positions or a carried bias are lost on the way."""
    batches = batches_of(any_model)
    expected = [inputs_of_blocks(any_model, batch) for batch in batches]
    with BlockWalk(any_model, batches) as walk:
        assert walk.tokens == 24 + 9 + 21
        for place, block in enumerate(walk):
            assert block is walk.body.blocks[place]
            for found, wanted in zip(walk.inputs, expected, strict=True):
                torch.testing.assert_close(found, wanted[place], rtol=1e-5, atol=1e-6)


def test_edits_propagate(any_model: Any) -> None:
    """Breaks when later blocks are calibrated on what the unedited ones computed."""
    batches = batches_of(any_model)
    with BlockWalk(any_model, batches) as walk:
        for place, block in enumerate(walk):
            if place:
                expected = inputs_of_blocks(any_model, batches[0])[place]
                torch.testing.assert_close(walk.inputs[0], expected, rtol=1e-5, atol=1e-5)
            before = list(walk.outputs())
            block.ffn.down.write_(block.ffn.down.read() * 3)
            assert not torch.allclose(before[0], next(walk.outputs()))


def test_taps_see_every_row_once(any_model: Any) -> None:
    """Breaks when a turn runs blocks twice, or when the advance is seen by a tap."""
    batches = batches_of(any_model)
    with BlockWalk(any_model, batches) as walk:
        for block in walk:
            rows = 0

            def count(tapped: Tensor) -> None:
                nonlocal rows
                rows += tapped.shape[0]

            with tap_inputs(block.attention.output, count):
                walk.run()
            assert rows == sum(hidden.shape[0] * hidden.shape[1] for hidden in walk.inputs)


def test_the_model_is_left_as_it_was(any_model: Any) -> None:
    """Breaks when recorders, hooks or the evaluation mode stay behind, also after an error."""
    any_model.train()
    modules = {name: id(module) for name, module in any_model.named_modules()}
    with pytest.raises(KeyError, match="stop"), BlockWalk(any_model, batches_of(any_model)) as walk:
        for _ in walk:
            assert not any_model.training
            raise KeyError("stop")
    assert any_model.training
    assert {name: id(module) for name, module in any_model.named_modules()} == modules


def test_only_one_state_per_token_is_kept() -> None:
    """Breaks when the inputs of passed blocks are kept, or a graph is built: memory would grow with depth."""
    model = make("llama")
    with BlockWalk(model, batches_of(model)) as walk:
        turns = iter(walk)
        next(turns)
        first = [weakref.ref(hidden) for hidden in walk.inputs]
        next(turns)
        assert not any(hidden.requires_grad for hidden in walk.inputs)
        gc.collect()
        assert all(reference() is None for reference in first)
        assert not next(walk.outputs()).requires_grad
    with BlockWalk(model, batches_of(model), gradients=True) as walk:
        next(iter(walk))
        assert next(walk.outputs()).requires_grad and not walk.inputs[0].requires_grad


def test_a_walk_that_differs_from_the_forward_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when a wrong declaration is believed: here the forward does something after the blocks."""
    model = make("llama")
    handle = model.model.norm.register_forward_pre_hook(lambda m, a: (a[0] * 2 + 1,))
    BlockWalk(model, batches_of(model)).__enter__().__exit__(None, None, None)  # within the final norm: seen by both
    handle.remove()
    inner = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **kw: (inner(**kw)[0] * 1.01,))
    with pytest.raises(UnsupportedModel, match="walked block by block"), BlockWalk(model, batches_of(model)):
        pass


def test_empty_calibration_is_refused() -> None:
    """Breaks when statistics over no tokens are used."""
    with pytest.raises(ConfigError, match="at least one batch"):
        BlockWalk(make("llama"), [])
    walk = BlockWalk(make("llama"), batches_of(make("llama")))
    with pytest.raises(RuntimeError, match="iterate"):
        walk.run()

"""Taps see and replace exactly what passes the border of a part, and leave nothing behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pomona.anatomy import (
    Block,
    Weight,
    of,
    replace_branch,
    replace_inputs,
    replace_outputs,
    tap_branch,
    tap_inputs,
    tap_outputs,
    tap_stream,
)
from pomona.ground.errors import ConfigError

from .conftest import inputs_of, make, modular

VERBS: dict[str, Callable[..., Any]] = {
    "tap_inputs": tap_inputs,
    "tap_outputs": tap_outputs,
    "replace_inputs": replace_inputs,
    "replace_outputs": replace_outputs,
}


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(**inputs_of(model)).logits
    return output


def test_outputs_are_the_map_of_the_inputs(any_model: Any) -> None:
    """Breaks when a tap sits on another module, or passes the neighbours' outputs of a fused projection."""
    body, inputs = of(any_model), inputs_of(any_model)
    any_model(**inputs)  # transformers installs its own hooks at the first call
    before = hooks(any_model)
    for block in body.blocks:
        for weight in modular(block):
            seen: list[Tensor] = []
            with torch.no_grad(), tap_inputs(weight, seen.append), tap_outputs(weight, seen.append):
                any_model(**inputs)
            given, got = seen
            assert given.shape == (given.shape[0], weight.shape[1]) and given.shape[0] % 2 == 0
            torch.testing.assert_close(nn.functional.linear(given, weight.read(), weight.bias_read()), got)
            torch.testing.assert_close(weight.apply(given), got)
    assert hooks(any_model) == before


def outputs_of(weights: list[Weight]) -> tuple[ExitStack, dict[str, Tensor]]:
    """Taps on the outputs of several maps, to be opened; and where they will be, by role."""
    seen: dict[str, Tensor] = {}
    taps = ExitStack()
    for weight in weights:
        taps.enter_context(tap_outputs(weight, lambda rows, role=weight.role: seen.update({role: rows})))
    return taps, seen


def test_replaced_inputs_reach_the_named_map_alone(any_model: Any) -> None:
    """Breaks when a change of one fused map's inputs or outputs reaches its neighbours, or is not used at all."""
    block = of(any_model).blocks[1]
    for weight in modular(block):
        fellows = [other for other in modular(block) if other.owner is weight.owner]
        given: list[Tensor] = []
        taps, plain = outputs_of(fellows)
        with taps, tap_inputs(weight, given.append):
            logits_of(any_model)
        for replace, expected in (
            (replace_inputs, weight.apply(given[0] * 2 + 1)),
            (replace_outputs, plain[weight.role] * 2 + 1),
        ):
            with torch.no_grad(), replace(weight, lambda hidden: hidden * 2 + 1):
                taps, seen = outputs_of(fellows)
                with taps:
                    logits_of(any_model)
            torch.testing.assert_close(seen.pop(weight.role), expected)
            assert all(torch.equal(rows, plain[role]) for role, rows in seen.items())


def test_replacements_keep_the_shape_and_the_graph(any_model: Any) -> None:
    """Breaks when rows are flattened on the way, or a replaced output loses its gradient."""
    body = of(any_model)
    part = body.blocks[-1].attention.value
    shapes: list[torch.Size] = []
    vector = torch.zeros(part.shape[0], requires_grad=True)

    def steer(hidden: Tensor) -> Tensor:
        shapes.append(hidden.shape)
        return hidden + vector

    with replace_outputs(part, steer):
        any_model(**inputs_of(any_model)).logits.sum().backward()
    between = () if "direct_attention" in body.capabilities else (1,)  # latents pass as the keys of one head
    assert shapes == [torch.Size((2, *between, 7 if any_model.config.is_encoder_decoder else 12, part.shape[0]))]
    assert vector.grad is not None and float(vector.grad.abs().sum()) > 0


def test_blocks_and_their_branches(any_model: Any) -> None:
    """Breaks when what enters, leaves or is added is not that: without branches a block is the identity."""
    for stack in of(any_model).stacks:
        places: dict[int, Tensor] = {}
        with torch.no_grad(), tap_stream(stack, places.__setitem__):
            any_model(**inputs_of(any_model))
        assert list(places) == list(range(len(stack.blocks) + 1))
        for place, block in enumerate(stack.blocks):
            entered, left = places[place], places[place + 1]
            parts: list[Tensor] = []
            names = ["attention", *(["cross_attention"] if block.cross_attention else []), "ffn"]
            with ExitStack() as taps:
                for name in names:
                    taps.enter_context(tap_branch(block, name, parts.append))
                logits_of(any_model)
            assert all(part.shape == entered.shape for part in parts)
            if block.placement == "pre":
                torch.testing.assert_close(entered + block.branch_scale * sum(parts), left)
                ends: list[Tensor] = []
                with ExitStack() as taps:
                    for name in names:
                        taps.enter_context(replace_branch(block, name, torch.zeros_like))
                    taps.enter_context(tap_inputs(block, ends.append))
                    taps.enter_context(tap_outputs(block, ends.append))
                    logits_of(any_model)
                assert torch.equal(*ends)


def test_a_replaced_block_output_enters_the_next(any_model: Any) -> None:
    """Breaks when the rest of a block's tuple is lost (carried biases), or a change is made too late."""
    first, second = of(any_model).stacks[-1].blocks[:2]
    entered: list[Tensor] = []
    with tap_inputs(second, entered.append), replace_outputs(first, lambda hidden: hidden * 3):
        logits_of(any_model)
    with tap_inputs(second, entered.append), replace_inputs(second, lambda hidden: hidden * 3):
        logits_of(any_model)
    plain: list[Tensor] = []
    with tap_outputs(first, plain.append):
        logits_of(any_model)
    assert torch.equal(entered[0], 3 * plain[0])
    assert torch.equal(entered[1], plain[0])  # this tap was opened before the replacement


def test_each_sees_what_earlier_ones_made() -> None:
    """Breaks when several taps at one part undo one another, or act in another order than they were opened in."""
    model = make("gpt2")
    weight = of(model).blocks[0].attention.key
    seen: list[Tensor] = []
    with (
        tap_outputs(weight, seen.append),
        replace_outputs(weight, lambda hidden: hidden + 1),
        replace_outputs(weight, lambda hidden: hidden * 2),
        tap_outputs(weight, seen.append),
    ):
        logits_of(model)
    torch.testing.assert_close(seen[1], (seen[0] + 1) * 2)


@pytest.mark.parametrize("verb", list(VERBS))
def test_taps_are_removed_after_an_error(verb: str, single_model: Any) -> None:
    """Breaks when a failing callback leaves its hook on the model."""
    body = of(single_model)
    logits_of(single_model)
    before = hooks(single_model)

    def fail(rows: Tensor) -> Tensor:
        raise KeyError("full")

    parts: list[Any] = [body.blocks[1].attention.output, body.blocks[1].attention.query, body.blocks[1]]
    for part in parts:
        with pytest.raises(KeyError, match="full"), VERBS[verb](part, fail):
            logits_of(single_model)
    assert hooks(single_model) == before


def test_taps_close_in_any_order() -> None:
    """Breaks when the end of one tap removes another, or leaves its own hook."""
    model = make("llama")
    block = of(model).blocks[0]
    expected = logits_of(model)
    before = hooks(model)
    seen: list[Tensor] = []
    outer, inner = replace_outputs(block, lambda hidden: hidden * 2), tap_outputs(block, seen.append)
    outer.__enter__()
    inner.__enter__()
    logits_of(model)
    outer.__exit__(None, None, None)
    logits_of(model)
    inner.__exit__(None, None, None)
    torch.testing.assert_close(seen[0], 2 * seen[1])
    assert hooks(model) == before and torch.equal(logits_of(model), expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_nothing_keeps_model_or_callback_alive(name: str) -> None:
    """Breaks when a hook, a closure or a cycle outlives its block: freed at once, without the garbage collector."""

    class Callback:
        def __call__(self, hidden: Tensor) -> Tensor:
            return hidden

    model = make(name)
    body = of(model)
    gc.disable()
    try:
        for tap in VERBS.values():
            callback = Callback()
            gone = weakref.ref(callback)
            for part in (body.blocks[0].attention.query, body.blocks[0]):
                with tap(part, callback):
                    logits_of(model)
            del callback
            assert gone() is None
    finally:
        gc.enable()
    gone_model = weakref.ref(model)
    del model, body, part
    gc.collect()  # transformers' own modules form cycles
    assert gone_model() is None


def test_a_tap_that_nothing_passed_is_an_error() -> None:
    """Breaks when statistics of nothing are used; an error on its way is not hidden by this one."""
    body = of(make("llama"))
    for verb in VERBS.values():
        tap: Callable[..., Any] = verb
        with (
            pytest.raises(ConfigError, match=r"nothing passed through model\.layers\.2 while"),
            tap(body.blocks[2], id),
        ):
            pass
        with pytest.raises(KeyError, match="earlier"), tap(body.blocks[2], id):
            raise KeyError("earlier")
    assert hooks(body.model) == 0


def test_wrong_replacements_are_refused() -> None:
    """Breaks when a callback that forgets to return, or flattens, goes on with another shape."""
    model = make("gpt2")
    block = of(model).blocks[0]
    wrong: dict[str, Callable[[Tensor], Any]] = {
        "NoneType": lambda hidden: None,
        r"\(24, 32\)": lambda hidden: hidden.flatten(0, 1),
        "float64": lambda hidden: hidden.double(),
    }
    parts: list[Any] = [block, block.attention.query, block.attention.output]
    for found, change in wrong.items():
        for replace in (replace_inputs, replace_outputs):
            for part in parts:
                with pytest.raises(ValueError, match=f"carries .* not .*{found}"), replace(part, change):
                    logits_of(model)


def test_only_what_has_borders_is_tapped(single_model: Any) -> None:
    """Breaks when a table or a gain is tapped as if it multiplied rows, or a missing branch is taken for another."""
    body = of(single_model)
    with pytest.raises(ValueError, match="is a table"), tap_inputs(body.embedding, print):
        pass
    with pytest.raises(ValueError, match="not a linear map"):
        body.embedding.apply(torch.ones(2))
    block: Block = body.blocks[0]
    with pytest.raises(ConfigError, match="has no cross_attention"), tap_branch(block, "cross_attention", print):
        pass

"""Changing number and order of blocks: true configuration, own storage, all or nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from pomona.anatomy import load, of
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.lab import outputs_of
from pomona.anatomy.taps import hidden_of
from pomona.ground.errors import ConfigError, UnsupportedModel
from tests.conformance import assert_same_model

from .conftest import MODELS, TOWERS, inputs_of, make, shape_in

ORDER = [0, 1, 1, 2, 0]


def test_new_blocks_compute_what_their_sources_did(movable_model: Any) -> None:
    """Breaks when copies are made of the wrong block, or when something outside of the list holds the old ones."""
    body, inputs = of(movable_model), inputs_of(movable_model)
    container = movable_model.get_submodule(body.stacks[0].path)
    donors = copy.deepcopy(list(container))
    body.restack_(ORDER)
    seen: list[Any] = []

    def note(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.append((args, kwargs, output))

    handles = [block.module.register_forward_hook(note, with_kwargs=True) for block in body.blocks]
    with torch.no_grad():
        body.hidden(**inputs)
        for handle in handles:
            handle.remove()
        assert len(seen) == len(ORDER)
        for source, (args, kwargs, output) in zip(ORDER, seen, strict=True):
            assert torch.equal(hidden_of(donors[source](*args, **kwargs)), hidden_of(output))


def test_copies_share_no_storage_and_ties_stay(movable_model: Any) -> None:
    """Breaks when a block is listed twice instead of copied, or when a tie is lost."""
    body = of(movable_model)
    ties = body.ties
    body.restack_(ORDER)
    storages = [p.untyped_storage().data_ptr() for _, p in body.matrices()]
    assert len(set(storages)) == len(storages)
    assert body.ties == ties
    assert [b.index for b in body.blocks] == list(range(5)) and len(body.blocks) == 5


def test_copies_read_the_models_own_configuration(movable_model: Any) -> None:
    """Breaks when copied blocks keep a configuration of their own, deaf to an attention kernel that is set later."""
    body = of(movable_model)
    originals = {id(part.config) for part in movable_model.modules() if hasattr(part, "config")}
    body.restack_(ORDER)
    assert {id(part.config) for part in movable_model.modules() if hasattr(part, "config")} == originals


def test_configuration_follows(movable_model: Any, tmp_path: Any) -> None:
    """Breaks when the saved folder loads with another depth, other layer types or other logits."""
    body, inputs = of(movable_model), inputs_of(movable_model)
    types = getattr(movable_model.config, "layer_types", None)
    body.restack_(ORDER)
    assert movable_model.config.num_hidden_layers == 5
    if types is not None:
        assert movable_model.config.layer_types == [types[i] for i in ORDER]
    expected = movable_model(**inputs).logits
    movable_model.save_pretrained(tmp_path)
    auto = AutoModelForCausalLM if "causal" in body.capabilities else AutoModelForMaskedLM
    loaded = auto.from_pretrained(tmp_path).eval()
    assert_same_model(loaded, movable_model, loaded(**inputs).logits, expected)
    assert of(loaded).parameter_count() == body.parameter_count()


BY_PLACE = {"gpt2-by-depth": "depends on its index", "qwen3_moe": "depends on its index"}
"""Models whose blocks are made by their places, and the refusal."""


@pytest.mark.parametrize("name", [name for name in TOWERS if name not in MODELS])
def test_every_tower_can_be_deepened(name: str, tmp_path: Any) -> None:
    """Breaks when a stem, a field of one tower or a list of stages does not follow, so that the folder is another
    model; or when a model whose blocks hang on their places is not refused."""
    body = of(make(name), shape_in(name))
    stack, inputs = body.stacks[0], example_inputs(body)
    order = [*range(len(stack.blocks)), len(stack.blocks) - 1]
    if name in BY_PLACE:
        with pytest.raises(UnsupportedModel, match=BY_PLACE[name]):
            body.restack_([0, 0, 1])
        return
    body.restack_(order, stack.name)
    assert [block.index for block in body.stacks[0].blocks] == list(range(len(order)))
    body.model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    expected = outputs_of(body, inputs)
    assert_same_model(loaded, body.model, outputs_of(of(loaded, body.shape), inputs), expected)


def test_cache_indices_follow(causal_model: Any) -> None:
    """Breaks when two blocks write to one place of the cache: generation with cache would differ."""
    body = of(causal_model)
    body.restack_(ORDER)
    for block in body.blocks:
        assert {m.layer_idx for m in block.module.modules() if hasattr(m, "layer_idx")} == {block.index}
    ids = inputs_of(causal_model, tokens=6)["input_ids"]
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    given = {"attention_mask": torch.ones_like(ids), **settings}
    with_cache = causal_model.generate(ids, use_cache=True, **given)
    assert torch.equal(with_cache, causal_model.generate(ids, use_cache=False, **given))


def test_identity_and_removal(movable_model: Any) -> None:
    """Breaks when the order that changes nothing changes something, or when a removed block still computes."""
    body, inputs = of(movable_model), inputs_of(movable_model)
    expected = movable_model(**inputs).logits
    body.restack_([0, 1, 2])
    assert torch.equal(movable_model(**inputs).logits, expected)
    body.restack_([0, 1, 1, 2])
    body.restack_([0, 1, 3])
    assert torch.equal(movable_model(**inputs).logits, expected)


def test_gradients_reach_every_new_block(movable_model: Any) -> None:
    """Breaks when a copy is frozen or not part of the graph."""
    body = of(movable_model)
    body.restack_(ORDER)
    movable_model(**inputs_of(movable_model)).logits.square().mean().backward()
    for name, parameter in body.matrices():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


@pytest.mark.parametrize("order", [[], [3], [-1, 0]])
def test_bad_orders_change_nothing(order: list[int]) -> None:
    """Breaks when an edit starts before it is known to be possible."""
    model = make("qwen3")
    body = of(model)
    before = (model.config.to_dict(), {n: id(p) for n, p in model.named_parameters()})
    with pytest.raises(ConfigError, match="at least one index from 0 to 2"):
        body.restack_(order)
    assert (model.config.to_dict(), {n: id(p) for n, p in model.named_parameters()}) == before


def test_models_whose_blocks_cannot_move_are_refused() -> None:
    """Breaks when a block's function hangs on its index and the reloaded model would compute something else."""
    scaled = make("gpt2", scale_attn_by_inverse_layer_idx=True)
    before = {n: id(p) for n, p in scaled.named_parameters()}
    with pytest.raises(UnsupportedModel, match="depends on its index"):
        of(scaled).restack_([0, 0, 1])
    assert {n: id(p) for n, p in scaled.named_parameters()} == before
    of(scaled).restack_([0, 1])  # dropping the last block moves none
    t5 = of(make("t5"))
    with pytest.raises(ConfigError, match="one of encoder, decoder"):
        t5.restack_([0])


@pytest.mark.parametrize("order", [[1, 0], [0, 0, 1], [1, 1], [1], [0]])
def test_a_table_of_the_whole_stack_stays_at_its_place(order: list[int], tmp_path: Any) -> None:
    """Breaks when the position bias goes away with its block, comes twice, or is not where a folder has it."""
    model = make("t5")
    body, inputs = of(model), inputs_of(model)
    encoder, donors = model.get_encoder(), copy.deepcopy(list(model.encoder.block))
    hidden, mask = model.shared(inputs["input_ids"]), torch.ones(2, 12)
    with torch.no_grad():
        bias = encoder.block[0](hidden)[1]
        for index in order:
            hidden = donors[index](hidden, position_bias=bias)[0]
        expected = encoder.final_layer_norm(hidden)
        for stack in ("encoder", "decoder"):
            body.restack_(order, stack=stack)
        torch.testing.assert_close(encoder(inputs["input_ids"], mask)[0], expected)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    for stack in body.stacks:
        held = [block.attention.bias_table is not None for block in stack.blocks]
        assert held == [True, *[False] * (len(order) - 1)]
    assert model.config.num_layers == model.decoder.config.num_layers == len(order)


def test_blocks_of_other_sizes_move_with_their_sizes(tmp_path: Any) -> None:
    """Breaks when recorded sizes stay at their places while the blocks move."""
    model = make("llama")
    body, inputs = of(model), inputs_of(model)
    with body.edit() as edit:
        edit.keep(body.blocks[1].ffn.features, range(7))
        edit.keep(body.blocks[2].attention.heads, [1])
    body.restack_([2, 1, 1, 0])
    assert [block.ffn.features.size for block in body.blocks] == [48, 7, 7, 48]
    assert [block.attention.num_heads for block in body.blocks] == [1, 4, 4, 4]
    model.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path)(**inputs).logits, model(**inputs).logits)


def test_failures_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when a failure leaves the new order of blocks with the old configuration."""
    model = make("t5")
    body, inputs = of(model), inputs_of(model)
    expected, config = model(**inputs).logits, model.config.to_dict()
    for step in ("follow_configs", "_fit_place"):
        monkeypatch.setattr(f"pomona.anatomy.restack.{step}", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            body.restack_([1, 0, 0], stack="encoder")
        monkeypatch.undo()
        assert model.config.to_dict() == config and len(of(model).stacks[0].blocks) == 2
        assert torch.equal(model(**inputs).logits, expected)


def test_per_block_lists_must_fit() -> None:
    """Breaks when a list of the wrong length is silently reordered."""
    model = make("qwen3")
    model.config.layer_types = model.config.layer_types[:2]
    with pytest.raises(UnsupportedModel, match="3 entries in layer_types"):
        of(model).restack_([0, 1])
    assert len(of(model).blocks) == 3

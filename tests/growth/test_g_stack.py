"""The invariants of G_stack's catalog entry, one test each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona import anatomy
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.growth import GStackConfig, g_stack_, growth_timing, suggest_timing
from pomona.growth.g_stack import stacking_order
from tests.tiny import bert, gpt2, llama, t5

every_family = pytest.mark.parametrize("make", [llama, gpt2, bert], ids=["llama", "gpt2", "bert"])
TOKENS = torch.randint(0, 96, (2, 12), generator=torch.Generator().manual_seed(0))


def state(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def logits(model: Any) -> Tensor:
    result: Tensor = model.eval()(input_ids=TOKENS).logits
    return result


@every_family
def test_factor_one_is_refused(make: Any) -> None:
    """Catches a growth that did nothing passing for one, and one that did not leave everything as it was."""
    model = make()
    before, made = state(model), logits(model)
    for config in (GStackConfig(factor=1), GStackConfig(order=(0, 1))):
        with pytest.raises(ConfigError, match="g-stack changed nothing"):
            g_stack_(model, config)
    after = state(model)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(model), made)


@every_family
@pytest.mark.parametrize(("order", "wanted"), [("cyclic", [0, 1, 0, 1, 0, 1]), ("interleaved", [0, 0, 0, 1, 1, 1])])
def test_blocks_are_copies_that_share_nothing(make: Any, order: Any, wanted: list[int]) -> None:
    """Target block i equals source block wanted[i] and shares no storage with any other; everything else is
    bit-identical, and the parameter count is that of the rest plus g times the blocks."""
    model = make()
    body = anatomy.of(model)
    source = [{name: p.clone() for name, p in block.module.named_parameters()} for block in body.blocks]
    in_blocks = {name for block in body.blocks for name in state(model) if name.startswith(f"{block.path}.")}
    rest = {name: value for name, value in state(model).items() if name not in in_blocks}
    size = sum(value.numel() for value in source[0].values())
    count = body.parameter_count()

    report = g_stack_(body, GStackConfig(factor=3, order=order))
    assert list(report.order) == wanted and len(body.blocks) == 6 == report.blocks_after
    for block, index in zip(body.blocks, wanted, strict=True):
        for name, parameter in block.module.named_parameters():
            assert torch.equal(parameter, source[index][name])
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(pointers)) == len(pointers)
    after = state(model)
    assert all(torch.equal(after[name], value) for name, value in rest.items())
    assert body.parameter_count() == count + 4 * size == report.parameters_after


def test_tied_head_stays_tied() -> None:
    """Catches a copy of the head, which would then train on its own."""
    model = llama()
    g_stack_(model, GStackConfig(factor=2))
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("new_blocks", ["copies", "identity"])
def test_generation_with_cache(make: Any, new_blocks: Any) -> None:
    """Greedy generation with the key-value cache equals generation without: catches indices that are not renumbered,
    by which one block overwrites another's cache."""
    model = make(initializer_range=0.5).eval()
    g_stack_(model, GStackConfig(factor=2, new_blocks=new_blocks))
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    prompt = {"input_ids": TOKENS[:, :4], "attention_mask": torch.ones(2, 4, dtype=torch.long)}
    with_cache = model.generate(**prompt, use_cache=True, **settings)
    without = model.generate(**prompt, use_cache=False, **settings)
    assert torch.equal(with_cache, without)
    assert len(set(with_cache[0].tolist())) > 3  # not one token over and over, which would hide a broken cache


@pytest.mark.parametrize("make", [llama, gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("order", ["cyclic", "interleaved", (0, 1, 1, 0, 0)])
def test_identity_blocks_keep_the_function(make: Any, order: Any) -> None:
    """grow zero (depth): logits before and after are identical. Catches an output that is not zeroed, biases too."""
    model = make(initializer_range=0.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    before = logits(model)
    sizes = {"factor": 3} if isinstance(order, str) else {}
    g_stack_(model, GStackConfig(order=order, new_blocks="identity", **sizes))
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    copied = make(initializer_range=0.5)
    g_stack_(copied, GStackConfig(order=order, **sizes))
    assert (logits(copied) - before).abs().max() > 0.1  # and plain stacking is not function preserving


def test_identity_blocks_learn() -> None:
    """Catches blocks that are dead for good: their zeroed outputs get gradients."""
    model = llama()
    g_stack_(model, GStackConfig(factor=2, new_blocks="identity"))
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    grown = anatomy.of(model).blocks[2:]
    assert all(block.ffn.down.parameter.grad.any() and block.attention.output.parameter.grad.any() for block in grown)


def test_identity_blocks_refuse_post_norm() -> None:
    """Catches an identity that is none: a post-norm block normalizes what it adds nothing to."""
    model = bert()
    before = state(model)
    with pytest.raises(UnsupportedModel, match="g-stack with identity blocks"):
        g_stack_(model, GStackConfig(new_blocks="identity"))
    assert state(model).keys() == before.keys()


def test_encoder_decoders_are_refused_whole() -> None:
    """Catches half an edit: nothing of a model that cannot be stacked has changed."""
    model = t5()
    before = state(model)
    with pytest.raises(UnsupportedModel, match="g-stack"):
        g_stack_(model)
    assert state(model).keys() == before.keys()


def test_growth_timing_of_the_paper() -> None:
    """growth_timing(7e9, 6 * 7e9 * 2e12) = 1.11e10 within 1 %, and the paper's other worked values."""
    assert growth_timing(7e9, 6 * 7e9 * 2e12) == pytest.approx(1.11e10, rel=0.01)
    for parameters, tokens, wanted in ((13e9, 2e12, 15.8e9), (70e9, 2e12, 42.5e9), (8e9, 15e12, 6.6e9)):
        assert growth_timing(parameters, 6 * parameters * tokens) == pytest.approx(wanted, rel=0.02)


def test_growth_timing_is_monotone() -> None:
    """Increasing in N at fixed C, decreasing in C at fixed N: catches an exchanged sign or argument."""
    sizes, flops = [1e8, 1e9, 1e10], [1e20, 1e22, 1e24]
    assert sorted(growth_timing(n, 1e22) for n in sizes) == [growth_timing(n, 1e22) for n in sizes]
    assert sorted(growth_timing(1e9, c) for c in flops) == [growth_timing(1e9, c) for c in reversed(flops)]


def test_suggestion_is_clamped_at_small_scale_and_says_so() -> None:
    """Catches the law being used far below where it was fitted, or the clamp being silent."""
    small = suggest_timing(5e6, 2e7)
    assert 0.05 <= small.share <= 0.10 and small.tokens == round(small.share * 2e7)
    assert "clamped to 5%-10%" in small.remark
    large = suggest_timing(7e9, 2e12)
    assert large.tokens == pytest.approx(1.11e10, rel=0.01) and "clamped" not in large.remark


def test_orders() -> None:
    """Catches uneven growth going wrong: any number of blocks, each source block in its turn."""
    assert stacking_order(3, 7, "cyclic") == [0, 1, 2, 0, 1, 2, 0]
    assert stacking_order(3, 7, "interleaved") == [0, 0, 0, 1, 1, 2, 2]
    assert GStackConfig().order_for(3) == [0, 1, 2] * 4
    assert GStackConfig(blocks=5).order_for(2) == [0, 1, 0, 1, 0]
    assert GStackConfig(order=(0, 0, 1)).order_for(2) == [0, 0, 1]


def test_refusals() -> None:
    """Catches sizes that contradict each other, shrinking, and blocks that do not exist."""
    for values, message in (
        ({"factor": 2, "blocks": 4}, "not several"),
        ({"factor": 2, "order": (0, 1)}, "not several"),
        ({"order": ()}, "at least one block"),
        ({"factor": 0}, "greater than 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            GStackConfig.parse(values)
    model = llama()
    with pytest.raises(ConfigError, match="only grows"):
        g_stack_(model, GStackConfig(blocks=1))
    with pytest.raises(ConfigError, match="from 0 to 1"):
        g_stack_(model, GStackConfig(order=(0, 2)))
    assert len(anatomy.of(model).blocks) == 2

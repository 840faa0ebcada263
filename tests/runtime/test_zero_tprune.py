"""Zero-TPrune: rankings by hand and by eigenvectors, who goes, how many, and what stays of the model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pomona import anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.tiny import tiny_model
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.runtime.zero_tprune import (
    ZeroTPruneConfig,
    counts_for,
    importance,
    kept_tokens,
    merged,
    page_rank,
    similar_ones,
)

CONFIG = ZeroTPruneConfig()


def graph(tokens: int = 12, heads: int = 3, batch: int = 2, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(batch, heads, tokens, tokens, generator=draw, dtype=torch.float64)).softmax(-1)


def test_one_step_is_the_mean_that_a_token_receives() -> None:
    """Catches votes that are counted in rows instead of columns."""
    attention = graph()
    torch.testing.assert_close(page_rank(attention, torch.ones(12), 1), attention.mean(2))


def test_many_steps_are_the_dominant_eigenvector() -> None:
    """Catches A in place of its transpose, and an iteration that stops early."""
    attention = graph(batch=1, heads=1)
    values, vectors = torch.linalg.eig(attention[0, 0].T)
    dominant = vectors[:, values.abs().argmax()].real
    scores = page_rank(attention, torch.rand(12), 200)[0, 0]
    torch.testing.assert_close(scores, dominant / dominant.sum(), rtol=0, atol=1e-5)


def test_what_has_left_the_graph_is_as_if_it_had_never_been() -> None:
    """Catches votes that go to tokens which are gone, or come from them: equal to the graph without them."""
    attention, alive = graph(), torch.ones(2, 12, dtype=torch.bool)
    alive[:, [3, 7, 8]] = False
    small = attention[:, :, alive[0]][:, :, :, alive[0]]
    expected = page_rank(small / small.sum(-1, keepdim=True), torch.ones(9), 7)
    found = page_rank(attention, torch.ones(12), 7, alive)
    torch.testing.assert_close(found[:, :, alive[0]], expected)
    assert not bool(found[:, :, ~alive[0]].any())


def test_even_attention_ranks_all_alike() -> None:
    """Catches a start vector that outlives the first step."""
    start = torch.ones(9)
    start[0] = 3.0
    scores = page_rank(torch.full((1, 1, 9, 9), 1 / 9), start, 1)
    torch.testing.assert_close(scores, torch.full((1, 1, 9), 1 / 9))


def test_importance_by_hand() -> None:
    """Catches a mean of heads (which hides a token that one head needs), and variances of scores that sum to 1."""
    even, one = torch.full((4,), 0.25), torch.tensor([0.4, 0.2, 0.2, 0.2])
    wild = torch.tensor([0.97, 0.01, 0.01, 0.01])
    found = importance(torch.stack([even, one, wild])[None], (0.01, 0.7))  # variances 0, 0.12 and 2.76 at mean 1
    torch.testing.assert_close(found, torch.tensor([[1.6, 0.8, 0.8, 0.8]]))
    none = importance(torch.stack([even, wild])[None], (0.01, 0.7))
    torch.testing.assert_close(none[0, 0], torch.tensor(((1 + 3.88**2) / 2) ** 0.5))


def test_scores_follow_a_permutation() -> None:
    """Catches a ranking that depends on where a token is in the image."""
    attention, order = graph(), torch.cat([torch.zeros(1).long(), 1 + torch.randperm(11)])
    start = torch.ones(12)
    turned = attention[:, :, order][:, :, :, order]
    ones, others = (importance(page_rank(each, start, 30), (0.0, 9.0)) for each in (attention, turned))
    torch.testing.assert_close(ones[:, order], others)


@pytest.mark.parametrize("metric", ["cosine", "dot", "distance"])
def test_of_two_doubles_the_less_important_goes(metric: str) -> None:
    """Catches a pair of which the better one goes, or both, or a class token that goes."""
    features = torch.nn.functional.normalize(torch.eye(8)[None] + 0.01, dim=-1)
    features[0, 6] = features[0, 3]
    features[0, 7] = features[0, 0]  # like the class token, which is nobody's partner
    scores = torch.tensor([[9.0, 5, 6, 7, 8, 1, 2, 3]])
    gone, partner = similar_ones(features, scores, 1, 1, "importance", metric)
    assert (gone.item(), partner.item()) == (6, 3)


@pytest.mark.parametrize("partition", ["importance", "alternate"])
def test_numbers_order_and_own_tokens(partition: str) -> None:
    """Catches too many or too few tokens, another order than the image's, and a class token that is pruned."""
    config = ZeroTPruneConfig.model_validate({"partition": partition})
    draw = torch.Generator().manual_seed(1)
    attention, features = graph(30, seed=2).float(), torch.randn(2, 30, 16, generator=draw)
    for keep in (29, 20, 12, 3):
        places, gone, partner = kept_tokens(attention, features, 2, keep, 30, config)
        assert places.shape == (2, keep) and bool((places.diff() > 0).all())
        assert places[:, :2].tolist() == [[0, 1], [0, 1]]
        assert gone.shape == partner.shape and gone.shape[1] <= 0.4 * (30 - keep) + 0.5
        assert not set(gone[0].tolist()) & set(places[0].tolist())


def test_doubles_have_no_vote() -> None:
    """Catches a background of equal tokens that votes itself important: it goes first, then the rest is ranked."""
    tokens = 10
    attention = torch.full((1, 1, tokens, tokens), 1e-3)
    attention[0, 0, 5:, 5:] = 1.0  # five equal tokens that look at one another
    attention[0, 0, :5, 1] = 1.0
    attention = attention / attention.sum(-1, keepdim=True)
    features = torch.eye(tokens)[None].clone()
    features[0, 5:] = features[0, 9]
    wide = ZeroTPruneConfig(variance=(0.0, 99.0), similar=1.0)
    without = ZeroTPruneConfig(variance=(0.0, 99.0), similar=0.0)
    assert set(kept_tokens(attention, features, 1, 9, 30, wide)[0][0].tolist()) >= {0, 1, 2, 3, 4}
    assert not {2, 3} <= set(kept_tokens(attention, features, 1, 6, 30, without)[0][0].tolist())


def test_merging_by_hand() -> None:
    """Catches a partner that forgets itself, or weighs two that go for it wrongly."""
    hidden = torch.tensor([[[1.0], [2.0], [6.0], [9.0]]])
    found = merged(hidden, torch.tensor([[2, 3]]), torch.tensor([[0, 0]]))
    torch.testing.assert_close(found[0, :2, 0], torch.tensor([(1 + 6 + 9) / 3, 2.0]))


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2"])
@torch.no_grad()
def test_models_keep_the_tokens_that_were_asked_for(family: str) -> None:
    """Catches a hook at another block, blocks that see all tokens, and own tokens (distillation) that are pruned."""
    body = anatomy.of(tiny_model(family, num_hidden_layers=4).eval())
    inputs = example_inputs(body)
    whole = body.hidden(**inputs).shape[1]
    own = body.own_tokens
    config = ZeroTPruneConfig(points=(0, 2), keep=(whole - 3, own + 2))
    seen = []
    with (
        config.attach(body) as state,
        anatomy.tap_stream(body.stacks[0], lambda place, hidden: seen.append(hidden.shape[1])),
    ):
        body.model(**inputs)
    assert state.tokens == [whole, whole - 3, own + 2]
    assert seen[0] == whole and seen[2] == whole - 3 and seen[-1] == own + 2


@torch.no_grad()
def test_all_tokens_leave_the_logits_as_they_are() -> None:
    """Catches pruning that is not skipped when nothing goes: equal to the last bit but for the maps' own kernel."""
    model = tiny_model("vit").eval()
    inputs = example_inputs(anatomy.of(model))
    expected = model(**inputs).logits
    with CONFIG.unlimited().attach(model):
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.8, 0.6])
@torch.no_grad()
def test_flops_are_what_was_asked_for(share: float) -> None:
    """Catches counts from a formula that forgets attention's square, or the points' own blocks."""
    sizes = {"image_size": 56, "patch_size": 4, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    body = anatomy.of(tiny_model("vit", num_hidden_layers=6, **sizes).eval())
    inputs = example_inputs(body, batch=1)

    def measured() -> float:
        with FlopCounterMode(display=False) as counter:
            body.model(**inputs)
        return float(counter.get_total_flops())

    with anatomy.use_attention(body.model, "explicit"):  # the fused kernel's products are not counted
        whole = measured()
    counts = counts_for(body, (0, 2, 3, 4), 197, 1, share)
    seen: list[int] = []
    config = ZeroTPruneConfig(points=(0, 2, 3, 4), flops=share, similar=0.0, iterations=(1, 1, 1))
    with config.attach(body) as state:
        spent = measured()
        seen = state.tokens
    assert tuple(seen[1:]) == counts
    scoring = sum(2 * 2 * at * at for at in seen[:-1])  # one product of the maps of two heads with a vector
    assert abs((spent - scoring) / whole - share) < 0.01


def test_refusals() -> None:
    """Catches points and numbers that do not fit, and FLOPs that cannot be reached."""
    body = anatomy.of(tiny_model("vit", num_hidden_layers=4))
    for wrong in (
        {"points": (2, 1)},
        {"points": (4,)},
        {"points": (1,), "keep": (9, 8)},
        {"points": (1, 2), "keep": (5, 6)},
    ):
        with pytest.raises(ConfigError):
            ZeroTPruneConfig.model_validate(wrong).check(body)
    with pytest.raises(ConfigError, match="single token"):
        counts_for(body, (3,), 17, 1, 0.2)
    with pytest.raises(UnsupportedModel, match="vision"):
        CONFIG.check(anatomy.of(tiny_model("bert")))

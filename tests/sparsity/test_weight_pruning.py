"""Zeroed weights: exactly as many as asked for, where they belong whatever stores them, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import prune

from pomona import anatomy
from pomona.anatomy import Weight
from pomona.ground.errors import ConfigError, PomonaError, UnsupportedModel
from pomona.sparsity import MagnitudeConfig, NMSparsityConfig, magnitude_, n_m_sparsity_
from pomona.sparsity.magnitude import Allocation, erk_zeros
from pomona.sparsity.n_m_sparsity import n_m_mask
from pomona.sparsity.weight_scores import prunable
from tests.sparsity.models import FAMILIES, state_of, telling, unchanged

every_family = pytest.mark.parametrize("family", FAMILIES)


def zeros(weights: list[Weight]) -> list[int]:
    return [int((weight.read() == 0).sum()) for weight in weights]


@every_family
def test_what_counts(family: str) -> None:
    """Catches embeddings, heads, norms, biases and routers that are pruned, and matrices that are left out."""
    body = telling(family)
    weights = prunable(body)
    names = {weight.name for weight in weights}
    assert body.embedding is None or body.embedding.name not in names
    assert all(
        weight.kind == "linear" and "router" not in weight.role and "gate." not in weight.role for weight in weights
    )
    inside = sum(weight.numel() for block in body.blocks for weight in block.wholes())
    control = [weight for block in body.blocks for weight in (block.ffn.router, block.ffn.shared_gate) if weight]
    assert sum(weight.numel() for weight in weights) == inside - sum(weight.numel() for weight in control)


@every_family
@pytest.mark.parametrize("sparsity", [0.3, 0.77])
def test_global_magnitude_is_exact(family: str, sparsity: float) -> None:
    """Catches a threshold that is off, and small weights that stay while larger ones go."""
    body = telling(family)
    weights = prunable(body)
    before = torch.cat([weight.read().abs().flatten() for weight in weights])
    report = magnitude_(body, MagnitudeConfig(sparsity=sparsity))
    after = torch.cat([weight.read().flatten() for weight in weights])
    assert int((after != 0).sum()) == round((1 - sparsity) * len(before))
    assert report.zeros == int((after == 0).sum())
    assert before[after == 0].max() <= before[after != 0].min() * (1 + 1e-6)


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk"])
@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_masks_are_nested_and_made_again(allocation: Allocation, score: str) -> None:
    """Catches masks that depend on the sparsity beyond their size, or on anything but weights and seed."""
    weights = prunable(telling("qwen2_moe"))
    before: list[torch.Tensor] | None = None
    for sparsity in (0.2, 0.21, 0.5, 0.9):
        config = MagnitudeConfig(sparsity=sparsity, allocation=allocation, score=score, seed=3)  # type: ignore[arg-type]
        masks = list(config.masks(weights))
        again = list(config.masks(weights))
        assert all(torch.equal(one, other) for one, other in zip(masks, again, strict=True))
        gone = sum(int((~mask).sum()) for mask in masks)
        assert abs(gone - sparsity * sum(mask.numel() for mask in masks)) <= len(masks)
        if before is not None:
            assert all(bool((now <= then).all()) for now, then in zip(masks, before, strict=True))
        before = masks
    if score == "random":
        others = MagnitudeConfig(sparsity=0.9, allocation=allocation, score="random", seed=4).masks(weights)
        assert before is not None and not all(torch.equal(*pair) for pair in zip(before, others, strict=True))


def test_uniform_and_erk() -> None:
    """Catches shares that differ between matrices under `uniform`, and ERK that favours the large ones."""
    body = telling("llama-grouped-untied")
    weights = prunable(body)
    magnitude_(body, MagnitudeConfig(sparsity=0.5, allocation="uniform"))
    assert zeros(weights) == [weight.numel() // 2 for weight in weights]
    body = telling("llama-grouped-untied")
    magnitude_(body, MagnitudeConfig(sparsity=0.5, allocation="erk"))
    shares = {
        weight.shape: count / weight.numel()
        for weight, count in zip(prunable(body), zeros(prunable(body)), strict=True)
    }
    assert shares[(48, 32)] > shares[(32, 32)] > shares[(16, 32)]
    assert erk_zeros([(10, 10), (10, 90)], 500) == [17, 483]
    assert erk_zeros([(2, 2), (100, 100)], 5000) == [0, 5000], "a small matrix cannot keep more than it has"


def test_by_role() -> None:
    """Catches roles that are ignored, that take more than their part, and typing errors that prune nothing."""
    body = telling("gpt2")
    before = state_of(body)
    magnitude_(body, MagnitudeConfig(sparsity=0.5, roles=("ffn.down",)))
    changed = {name for name, value in body.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {block.ffn.down.name for block in body.blocks}
    assert {weight.role for weight in prunable(body, ["embedding"])} == {"embedding"}
    assert {weight.role.split(".")[0] for weight in prunable(body, ["attention"])} == {"attention"}
    with pytest.raises(ConfigError, match="did you mean 'ffn'"):
        magnitude_(body, MagnitudeConfig(roles=("fnn",)))


def test_values_that_cannot_be_compared_are_refused() -> None:
    """Catches NaN among the largest, or the smallest, weights."""
    body = telling("gpt2")
    weight = body.blocks[1].ffn.up
    weight.write_(weight.read().clone().fill_(float("nan")))
    before = state_of(body)
    with pytest.raises(PomonaError, match="not finite"):
        magnitude_(body)
    assert all(torch.equal(value.nan_to_num(), before[name].nan_to_num()) for name, value in state_of(body).items())


@every_family
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "1:2", "3:8"])
def test_n_m_is_exact_along_the_inputs(family: str, pattern: str) -> None:
    """Catches groups along the outputs where storage is transposed, groups across experts or fused parts, and groups
    with another number of weights than N."""
    body = telling(family)
    weights = prunable(body)
    before = [weight.read().clone() for weight in weights]
    n_m_sparsity_(body, NMSparsityConfig(pattern=pattern))
    keep, group = map(int, pattern.split(":"))
    for weight, old in zip(weights, before, strict=True):
        new = weight.read().reshape(weight.shape[0], -1, group)
        assert bool(((new != 0).sum(-1) == keep).all())
        old = old.view_as(new).abs()
        largest = old.topk(keep, dim=-1).values[..., -1:]
        assert torch.equal(new != 0, old >= largest)


def test_conv1d_is_like_linear() -> None:
    """Catches masks that follow the storage: a transposed matrix with the same values loses the same weights."""
    body = telling("gpt2")
    weight = body.blocks[0].ffn.up
    assert weight.transposed and weight.shape[0] != weight.shape[1]
    values = weight.read().clone()
    expected = torch.where(n_m_mask(values.abs(), 2, 4), values, 0)
    n_m_sparsity_(body)
    assert torch.equal(weight.read(), expected)
    stored = weight.parameter.detach()
    assert int((stored.T[5, :4] != 0).sum()) == 2 and stored.shape == weight.shape[::-1]


def test_inputs_that_make_no_group_stay() -> None:
    """Catches a last group that is shorter, and a report that is silent about it."""
    body = telling("qwen2_moe")
    weights = prunable(body)
    report = n_m_sparsity_(body, NMSparsityConfig(pattern="2:5"))
    for weight, cut in zip(weights, report.cuts, strict=True):
        rest = weight.shape[1] % 5
        kept = weight.read() != 0
        assert bool((kept[:, : weight.shape[1] - rest].reshape(weight.shape[0], -1, 5).sum(-1) == 2).all())
        assert bool(kept[:, weight.shape[1] - rest :].all())
        assert (f"its last {rest} inputs whole" in cut.part) == (rest > 0)
    before = state_of(body)
    with pytest.raises(UnsupportedModel, match="at least 30 inputs"):
        n_m_sparsity_(body, NMSparsityConfig(pattern="2:30"))
    assert unchanged(body, before)
    with pytest.raises(ValueError, match="smaller than M"):
        NMSparsityConfig(pattern="4:4")


def test_as_torch_prunes() -> None:
    """Catches another set, order or count than torch's own global pruning of the same matrices."""
    body, other = telling("llama-grouped-untied"), telling("llama-grouped-untied")
    magnitude_(body, MagnitudeConfig(sparsity=0.4))
    theirs = [weight.owner.float() for weight in prunable(other)]
    prune.global_unstructured([(module, "weight") for module in theirs], prune.L1Unstructured, amount=0.4)
    for weight, module in zip(prunable(body), theirs, strict=True):
        assert torch.equal(weight.read() != 0, module.weight_mask.bool())


def test_scaling_a_matrix() -> None:
    """Catches `uniform` masks that depend on other matrices, and `global` ones that do not."""
    weights = prunable(telling("gpt2"))
    configs = [MagnitudeConfig(allocation=allocation) for allocation in ("global", "uniform", "erk")]
    before = [list(config.masks(weights)) for config in configs]
    weights[3].write_(8 * weights[3].read())
    same = [
        all(torch.equal(*pair) for pair in zip(config.masks(weights), masks, strict=True))
        for config, masks in zip(configs, before, strict=True)
    ]
    assert same == [False, True, True]


def test_ties_go_in_order() -> None:
    """Catches masks that depend on how a machine sorts."""
    assert n_m_mask(torch.ones(2, 8), 2, 4).tolist() == [[False, False, True, True] * 2] * 2
    body = telling("gpt2")
    for weight in prunable(body):
        weight.write_(torch.ones(weight.shape))
    magnitude_(body, MagnitudeConfig(sparsity=0.25))
    flat = torch.cat([weight.read().flatten() for weight in prunable(body)])
    assert torch.equal(flat, (torch.arange(len(flat)) >= len(flat) // 4).to(flat))


def test_half_precision() -> None:
    """Catches values that are rounded on the way: bfloat16 weights that stay are those from before."""
    body = telling("llama-grouped-untied")
    body = anatomy.of(body.model.bfloat16())
    before = state_of(body)
    magnitude_(body)
    for name, value in state_of(body).items():
        assert torch.equal(value, before[name].masked_fill(value == 0, 0))

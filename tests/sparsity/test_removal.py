"""Removal of heads, features and blocks: the right ones, under every setting."""

from __future__ import annotations

import copy

import pytest
import torch

from pomona import anatomy
from pomona.anatomy.probes.check import difference
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.sparsity import (
    BlockRemovalConfig,
    FfnRemovalConfig,
    HeadRemovalConfig,
    PruningConfig,
    remove_blocks_,
    remove_features_,
    remove_heads_,
)
from tests.sparsity.models import Squares, batches_of, outputs, state_of, telling, unchanged, without

SETTINGS: list[PruningConfig] = [
    HeadRemovalConfig(fraction=0.5, groups="within"),
    HeadRemovalConfig(fraction=0.5, scope="global", score="random", seed=1),
    FfnRemovalConfig(fraction=0.4, scope="global", multiple_of=1),
    FfnRemovalConfig(fraction=0.4, score="magnitude", multiple_of=16),
    BlockRemovalConfig(fraction=0.3, score="taylor"),
    BlockRemovalConfig(fraction=0.3, score="random", seed=2),
]


@pytest.mark.parametrize("config", SETTINGS, ids=lambda config: "-".join(map(str, config.model_dump().values())))
@pytest.mark.parametrize("family", ["llama-grouped-untied", "phi3"])
def test_masked_equals_cut_under_every_setting(config: PruningConfig, family: str) -> None:
    """Catches settings that cut other units than the report names, such as sizes that differ between blocks."""
    body = telling(family)
    whole = anatomy.of(copy.deepcopy(body.model))
    report = config.apply_(body, batches_of(body), Squares())
    assert difference(outputs(body), without(whole, report)) < 1e-9


def test_a_block_that_does_nothing_goes_first() -> None:
    """Catches the highest scores going, or blocks that change places: without it, the model is the same."""
    for score in ("influence", "taylor"):
        body = telling("llama-grouped-untied")
        for weight in body.blocks[1].writers():
            weight.write_(torch.zeros(weight.shape))
        before = outputs(body)
        report = remove_blocks_(body, BlockRemovalConfig(score=score), batches_of(body), Squares())  # type: ignore[arg-type]
        assert report.cuts[0].kept == (0, 2) and len(body.blocks) == 2
        assert torch.equal(outputs(body), before)


def test_the_last_blocks_go() -> None:
    """Catches a place that counts from the wrong end, in both stacks of an encoder-decoder."""
    body = telling("t5-gated")
    report = remove_blocks_(body, BlockRemovalConfig(score="last", fraction=0.5))
    assert [cut.kept for cut in report.cuts] == [(0,), (0,)]


def test_units_that_do_nothing_go_first() -> None:
    """Catches scores that are taken the wrong way round: without silent heads and features, the model is the same."""
    body = telling("gpt2")
    size = body.blocks[0].attention.head_dim.size
    for block in body.blocks:
        head, down = block.attention.output.read().clone(), block.ffn.down.read().clone()
        head[:, size : 2 * size] = 0
        down[:, ::2] = 0
        block.attention.output.write_(head)
        block.ffn.down.write_(down)
    before, batches = outputs(body), batches_of(body)
    heads = remove_heads_(body, HeadRemovalConfig(), batches, Squares())
    assert [cut.kept for cut in heads.cuts] == [(0, 2, 3)] * 3
    features = remove_features_(body, FfnRemovalConfig(fraction=0.5), batches, Squares())
    assert [cut.kept for cut in features.cuts] == [tuple(range(1, 128, 2))] * 3
    assert difference(outputs(body), before) < 1e-9


def test_grouped_queries() -> None:
    """Catches key-value heads that lose queries of another group, and groups of which nothing can go."""
    body = telling("llama-grouped-untied")
    remove_heads_(body, HeadRemovalConfig(fraction=0.5, score="magnitude"))
    assert {(a.num_heads, a.num_kv_heads) for a in body.attentions()} == {(2, 1)}
    with pytest.raises(ConfigError, match="would remove nothing"):
        remove_heads_(body, HeadRemovalConfig(fraction=0.5, score="magnitude"))
    remove_heads_(body, HeadRemovalConfig(fraction=0.5, score="magnitude", groups="within"))
    assert {(a.num_heads, a.num_kv_heads) for a in body.attentions()} == {(1, 1)}


def test_widths_are_multiples() -> None:
    """Catches widths that experts and hardware cannot use."""
    body = telling("mixtral")
    remove_features_(body, FfnRemovalConfig(fraction=0.4, score="magnitude"))
    assert {block.ffn.width for block in body.blocks} == {32}, "48 less 40 % is 29"


def test_blocks_that_depend_on_their_place_are_refused() -> None:
    """Catches a model that is half restacked when its blocks cannot move."""
    body = telling("gpt2-by-depth")
    before = state_of(body)
    with pytest.raises(UnsupportedModel, match="cannot change places"):
        remove_blocks_(body, BlockRemovalConfig(score="random", seed=1))
    assert unchanged(body, before) and len(body.blocks) == 3

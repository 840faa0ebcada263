"""MInference: dense when nothing is left out, prompts alone, padding, the search and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pomona import anatomy
from pomona.anatomy.tiny import tiny_model
from pomona.ground.errors import ConfigError, DataError, UnsupportedModel
from pomona.runtime.minference import (
    MinferenceConfig,
    at_cost,
    errors_of,
    load_patterns,
    recall,
    save_patterns,
    search_patterns,
)
from pomona.runtime.sparse_patterns import AShape, BlockSparse, Pattern, VerticalSlash

NARROW = MinferenceConfig(default=AShape(initial=2, local=5))


def ids(tokens: int = 40, batch: int = 1) -> torch.Tensor:
    return torch.randint(2, 60, (batch, tokens), generator=torch.Generator().manual_seed(tokens))


@pytest.mark.parametrize(
    "whole",
    [AShape(initial=30, local=10), VerticalSlash(vertical=40, slash=50), BlockSparse(blocks=1)],
    ids=lambda pattern: pattern.shape,
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_whole_budgets_are_dense(family: str, whole: Pattern) -> None:
    """Catches a pair that every shape loses."""
    model = tiny_model(family).eval()
    expected = model(ids()).logits
    with MinferenceConfig(default=whole).attach(model):
        torch.testing.assert_close(model(ids()).logits, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_small_budgets_change_something_and_only_from_where_they_bite() -> None:
    """Catches a config that is not obeyed, and an effect on tokens that see all of their keys."""
    model = tiny_model("llama").eval()
    expected = model(ids()).logits
    with NARROW.attach(model):
        found = model(ids()).logits
    torch.testing.assert_close(found[:, :7], expected[:, :7], rtol=1e-4, atol=1e-5)
    assert float((found[:, 7:] - expected[:, 7:]).abs().max()) > 1e-4
    with MinferenceConfig(default=NARROW.default, start_layer=1).attach(model):
        later = model(ids()).logits
    assert not torch.equal(later, found) and not torch.equal(later, expected)


@torch.no_grad()
def test_decoding_is_dense_on_a_full_cache() -> None:
    """Catches keys that the prefill drops from the cache, and sparse decoding."""
    model = tiny_model("llama").eval()
    with NARROW.attach(model):
        cache = model(ids(), use_cache=True).past_key_values
        assert cache.get_seq_length() == 40
        inside = model(torch.tensor([[7]]), past_key_values=cache).logits
    with NARROW.attach(model):
        cache = model(ids(), use_cache=True).past_key_values
    torch.testing.assert_close(inside, model(torch.tensor([[7]]), past_key_values=cache).logits)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_is_left_out(side: str) -> None:
    """Catches padding that is counted among the first or nearest keys: each row is as if it were alone."""
    model = tiny_model("gpt2").eval()
    rows = [ids(40)[0], ids(25)[0]]
    padded, mask, places = torch.zeros(2, 40, dtype=torch.long), torch.zeros(2, 40, dtype=torch.long), []
    for number, row in enumerate(rows):
        span = slice(40 - len(row), 40) if side == "left" else slice(0, len(row))
        padded[number, span], mask[number, span] = row, 1
        places.append(span)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with NARROW.attach(model):
        both = model(padded, attention_mask=mask, position_ids=positions).logits
        alone = [model(row[None]).logits[0] for row in rows]
    for number, span in enumerate(places):
        torch.testing.assert_close(both[number, span], alone[number], rtol=1e-4, atol=1e-5)


def test_budgets_in_proportion() -> None:
    """Catches budgets for 128k tokens that make a short prompt dense."""
    config = MinferenceConfig(default=AShape(initial=1024, local=4096), full_length=131_072)
    from pomona.runtime.minference import SparsePrefill

    assert SparsePrefill(config, []).pattern(0, 0, 32_768) == AShape(initial=256, local=1024)


@torch.no_grad()
def test_the_search_finds_the_shape_and_its_file_comes_back(tmp_path: Path) -> None:
    """Catches a search by another criterion, unequal costs, and a file that loads as something else."""
    model = tiny_model("llama", max_position_embeddings=512).eval()
    inputs = {"input_ids": ids(400)}
    found = search_patterns(model, inputs, full_length=400 * 4)
    body = anatomy.of(model)
    assert [sorted(block) for block in found] == [list(range(block.attention.num_heads)) for block in body.blocks]
    file = tmp_path / "patterns.json"
    save_patterns(found, file)
    assert load_patterns(file, body) == found
    expected = model(**inputs).logits
    with MinferenceConfig(patterns=file, full_length=1600).attach(model):
        sparse = model(**inputs).logits
    assert torch.equal(model(**inputs).logits, expected) and not torch.equal(sparse, expected)
    file.write_text("[]")
    with pytest.raises(ConfigError, match="another model"):
        load_patterns(file, body)


def test_planted_shapes() -> None:
    """Catches a search that mistakes the shapes: heads made of one are given it, at no more than the budget."""
    tokens, draw = 1024, torch.Generator().manual_seed(0)
    value = torch.randn(tokens, 16, generator=draw)
    column_key = 0.05 * torch.randn(tokens, 16, generator=draw)
    column_key[torch.randperm(tokens, generator=draw)[:24], 0] = 12.0
    column_query = 0.05 * torch.randn(tokens, 16, generator=draw)
    column_query[:, 0] = 12.0
    candidates = (AShape(initial=32, local=128), VerticalSlash(vertical=60, slash=80), BlockSparse(blocks=3))
    fitted = [candidates[0]]
    budget = candidates[0].find(column_query, column_key, 0.25).cost()
    fitted += [at_cost(each, column_query, column_key, 0.25, budget) for each in candidates[1:]]  # type: ignore[misc]
    kept = [each.find(column_query, column_key, 0.25) for each in fitted]
    assert all(own.cost() <= budget for own in kept[1:])
    dense, errors = errors_of(column_query, column_key, value, kept, 0.25)
    plain = torch.nn.functional.scaled_dot_product_attention(
        column_query[None], column_key[None], value[None], is_causal=True, scale=0.25
    )[0]
    torch.testing.assert_close(dense, plain, rtol=1e-4, atol=1e-4)
    assert min(range(3), key=errors.__getitem__) == 1
    assert recall(column_query, column_key, kept[1], 0.25) > recall(column_query, column_key, kept[0], 0.25)


def test_refusals() -> None:
    """Catches a search over several sequences, and masks that the kernel would ignore."""
    model = tiny_model("gpt2").eval()
    with pytest.raises(DataError, match="one whole sequence"):
        search_patterns(model, {"input_ids": ids(40, batch=2)})
    holes = torch.ones(1, 40, dtype=torch.long)
    holes[0, 10:20] = 0
    with pytest.raises(UnsupportedModel, match="hides more"), NARROW.attach(model):
        model(ids(), attention_mask=holes)

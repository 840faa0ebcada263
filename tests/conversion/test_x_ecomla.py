"""X-EcoMLA: exact where nothing is lost, best where something is, and generation keeps what it says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.anatomy.probes.lab import enlarged
from pomona.anatomy.tiny import tiny_model
from pomona.conversion.x_ecomla import (
    SHRINKS,
    XEcomlaConfig,
    base_of,
    dynamic_rank,
    factored,
    turned_features,
    x_ecomla_,
)
from pomona.ground.errors import ConfigError, UnsupportedModel

WHOLE = {"rope_type": "default", "rope_theta": 10000.0}
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "as many keys as queries, tied": ("llama", {}),
    "fewer keys": ("llama-grouped-untied", {}),
    "one key": ("llama-grouped-untied", {"num_key_value_heads": 1}),
    "wide heads": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "biases": ("qwen2", {}),
    "fused": ("phi3", {"sliding_window": None, "rope_parameters": WHOLE}),
}
IDS = torch.arange(24).view(2, 12) * 3 % 90 + 3
every_source = pytest.mark.parametrize("name", SOURCES)
LOSSLESS = {"energy": 1.0}


def source(name: str) -> Any:
    """A float64 model whose weights tell features apart."""
    row, changes = SOURCES[name]
    return enlarged(tiny_model(row, num_hidden_layers=2, **changes))


def silence(body: Anatomy, features: Tensor) -> None:
    """Let these features of every key be zero."""
    for attention in body.attentions():
        for part in attention.key.weights():
            rows = part.read().clone().unflatten(0, (-1, attention.head_dim.size))
            rows[:, features] = 0
            part.write_(rows.flatten(0, 1))


@torch.no_grad()
def logits(model: Any, **inputs: Any) -> Tensor:
    found: Tensor = model(IDS, **inputs).logits
    return found


def assert_same(model: Any, expected: Tensor, **inputs: Any) -> None:
    """Equal but for what the norms of the latents may take."""
    found = logits(model, **inputs)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


@every_source
@pytest.mark.parametrize("factored_queries", [False, True])
def test_without_rotation_and_at_full_rank_nothing_changes(name: str, factored_queries: bool) -> None:
    """Catches rows of the wrong head or half, a forgotten bias, scores with another factor, a norm that is felt, and
    parts that are not copied: at position 0 nothing turns, and the shared key is silent where its rows are."""
    model = source(name)
    body = anatomy.of(model)
    width = body.blocks[0].attention.head_dim.size
    silence(body, turned_features(width, width // 2, "last"))
    at_once = {"position_ids": torch.zeros_like(IDS)}
    expected = logits(model, **at_once)
    ranks = {"query_rank": min(body.blocks[0].attention.query.shape) + 1} if factored_queries else {}
    x_ecomla_(model, XEcomlaConfig(**LOSSLESS, **ranks))
    assert_same(model, expected, **at_once)


@pytest.mark.parametrize("pairs", ["last", "fast", "spread"])
def test_one_key_that_turns_as_a_whole_is_the_source(pairs: Any) -> None:
    """Catches frequencies or a layout of pairs other than the source's: with one key-value head, nothing is lost."""
    model = source("one key")
    expected = logits(model)
    x_ecomla_(model, XEcomlaConfig(**LOSSLESS, rotary=8, pairs=pairs))
    assert_same(model, expected)


@pytest.mark.parametrize(("pairs", "keeps"), [("last", False), ("fast", True), ("spread", True)])
def test_whole_pairs_turn_as_they_did(pairs: Any, keeps: bool) -> None:
    """Catches pairs torn apart, and a base that gives them other frequencies; the paper's own choice does both."""
    model = source("one key")
    body = anatomy.of(model)
    width = body.blocks[0].attention.head_dim.size
    kept = turned_features(width, 4, pairs).tolist()
    silence(body, torch.tensor([feature for feature in range(width) if feature not in kept]))
    expected = logits(model)
    x_ecomla_(model, XEcomlaConfig(**LOSSLESS, rotary=4, pairs=pairs))
    error = float((logits(model) - expected).abs().max() / expected.abs().max())
    assert error < 1e-4 if keeps else error > 1e-2


def test_features_and_bases_by_hand() -> None:
    """Catches other pairs than the fastest, and a base for another width: 100 ** (-2 i / 8) are 1, 0.316, 0.1, ..."""
    assert turned_features(8, 4, "fast").tolist() == [0, 1, 4, 5]
    assert turned_features(8, 4, "spread").tolist() == [0, 2, 4, 6]
    assert base_of(100.0, 8, 4, "fast") == pytest.approx(10.0) and base_of(100.0, 8, 4, "spread") == 100.0


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_error_is_the_tail_of_the_singular_values(rank: int) -> None:
    """Catches an approximation that is not the best: squared errors of all repeated rows, compared with torch's own."""
    weight = torch.randn(10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
    repeated = torch.cat([weight] * 3)
    kept = factored(weight, repeats=3).kept(rank)
    error = (repeated - torch.cat([kept.up] * 3) @ kept.down).square().sum()
    torch.testing.assert_close(error, torch.linalg.svdvals(repeated)[rank:].square().sum(), rtol=1e-9, atol=1e-12)


def test_dynamic_rank_grows_with_the_energy() -> None:
    """Catches a rank that falls, is no multiple of 8, or exceeds the matrix."""
    for seed in range(5):
        values = torch.rand(37, generator=torch.Generator().manual_seed(seed)).sort(descending=True).values
        ranks = [dynamic_rank(values, share / 20) for share in range(1, 21)]
        assert ranks == sorted(ranks) and ranks[0] == 8 and ranks[-1] == 37
        assert all(rank % 8 == 0 or rank == 37 for rank in ranks)


def test_heads_that_shared_a_key_start_alike() -> None:
    """Catches keys that are handed to query heads in another order."""
    model = source("fewer keys")
    report = x_ecomla_(model, XEcomlaConfig(rank=9))
    for attention in anatomy.of(model).attentions():
        for weight in (attention.key, attention.value):
            heads = weight.read().unflatten(0, (attention.num_heads, -1))
            assert torch.equal(heads[0], heads[1]) and torch.equal(heads[2], heads[3])
            assert not torch.equal(heads[1], heads[2])
    assert report.rank == 9 and all(0.3 < share < 1.0 for share in report.energy)


@every_source
@torch.no_grad()
def test_cached_decoding_is_the_full_forward_and_keeps_what_is_said(name: str) -> None:
    """Catches a cache of keys and values instead of latents, and a report of other bytes than those that are kept."""
    model = source(name)
    before = anatomy.of(model).kv_cache_bytes(1)
    report = x_ecomla_(model, XEcomlaConfig(rank=7, rotary=4))
    cache, found = None, []
    for token in IDS.unbind(1):
        out = model(token[:, None], past_key_values=cache, use_cache=True)
        cache, found = out.past_key_values, [*found, out.logits]
    torch.testing.assert_close(torch.cat(found, 1), logits(model), rtol=1e-8, atol=1e-8)
    kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    held = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    assert held == IDS.numel() * report.cache_after == anatomy.of(model).kv_cache_bytes(IDS.shape[1], batch=len(IDS))
    assert report.cache_after == 2 * (7 + 4) * 8 and report.cache_before == before


@torch.no_grad()
def test_norms_give_latents_back() -> None:
    """Catches a constant that is too small beside latents, or gains that do not undo the norm."""
    model = source("fewer keys")
    x_ecomla_(model, XEcomlaConfig(rank=9, query_rank=12))
    attention = anatomy.of(model).blocks[1].attention
    hidden = torch.randn(50, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm = anatomy.of(model).blocks[1].norm_attention
    assert norm is not None
    for latent in attention.latents():
        made = latent.down.apply(norm.module(hidden))[:, : latent.rank]
        found = latent.norm.module(made)
        torch.testing.assert_close(found[:, :-1], made[:, :-1], rtol=SHRINKS + 1e-7, atol=1e-9)
        torch.testing.assert_close(found[:, -1], torch.ones(50, dtype=torch.float64), rtol=2e-6, atol=0)


def test_a_random_start_has_the_same_shapes_and_another_attention() -> None:
    """Catches a baseline that learns from the source's queries, keys or values, or loses the rest."""
    models = [source("fewer keys") for _ in range(3)]
    reports = [
        x_ecomla_(model, XEcomlaConfig(rank=9, init=init, seed=seed))
        for model, (init, seed) in zip(models, [("svd", 0), ("random", 0), ("random", 1)], strict=True)
    ]
    assert len({report.parameters_after for report in reports}) == 1 and reports[1].energy == ()
    ours, one, other = ({part.role + part.name: part.read() for part in anatomy.of(m).parts()} for m in models)
    differ = {name for name in ours if not torch.equal(ours[name], one[name])}
    assert all("kv_" in name or "q_" in name for name in differ) and len(differ) > 6
    assert any(not torch.equal(one[name], other[name]) for name in differ)


@torch.no_grad()
def test_the_folder_loads_in_plain_transformers(tmp_path: Path) -> None:
    """Catches a configuration that builds something else than what was made, and ties that are lost."""
    model = tiny_model("llama")
    report = x_ecomla_(model, XEcomlaConfig(rank=9, query_rank=12))
    assert report.loads_with == "transformers"
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert not list(tmp_path.glob("*.py"))


@pytest.mark.parametrize(
    ("row", "changes", "found"),
    [
        ("mistral", {}, "window"),
        ("qwen3", {"sliding_window": None, "use_sliding_window": False}, "norms of queries and keys"),
        ("gpt2", {}, "layernorm"),
        ("gemma", {}, "factor of the embeddings"),
        ("mixtral", {}, "experts"),
        ("youtu", {}, "latent_attention"),
        ("llama", {"mlp_bias": True}, "bias in model.layers.0.mlp"),
        ("phi3", {"sliding_window": None}, "do not turn as a whole"),
    ],
)
def test_other_models_are_refused_unchanged(row: str, changes: dict[str, Any], found: str) -> None:
    """Catches a conversion that drops what the class of latent attention cannot say."""
    model = tiny_model(row, **changes)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedModel, match=found):
        x_ecomla_(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({"rank": 34}, "at most 33"),
        ({"query_rank": 40}, "at most 33"),
        ({"rotary": 3}, "even"),
        ({"rotary": 10}, "at most all"),
        ({"rotary": 6, "pairs": "spread"}, "divides"),
    ],
)
def test_sizes_that_heads_do_not_have_are_refused(settings: dict[str, Any], needs: str) -> None:
    """Catches features that are padded with zeros, and pairs that are cut."""
    with pytest.raises(ConfigError, match=needs):
        x_ecomla_(tiny_model("llama"), XEcomlaConfig(**settings))

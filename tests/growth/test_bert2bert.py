"""The invariants of bert2BERT's catalog entry, on every shape of the anatomy's table."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import pomona
from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.check import difference
from pomona.anatomy.probes.lab import enlarged_copy, outputs_of
from pomona.anatomy.tiny import TINY, tiny_model
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.growth import Bert2BertConfig, bert2bert_
from pomona.growth.bert2bert import width_map
from pomona.stages import call
from tests.tiny import llama

ROUNDED = 1e-5
"""Largest relative difference of what ought to be equal; norms compute in float32."""
OWN_FIELD = "its embeddings have a field of their own, beside which wider blocks would get a projection"
NOT_WIDER = {"opt": OWN_FIELD, "electra-square": OWN_FIELD}
"""What the anatomy refuses to widen, though it has the capability, and why."""
LOADED_BY_POMONA = {"qwen2_moe": "no declared field says how large the shared expert is"}


def can_widen(name: str) -> bool:
    towers = anatomy.towers(tiny_model(name))
    return len(towers) == 1 and all("free_residual" in body.capabilities for body in towers.values())


ROWS = [name for name in TINY if name not in NOT_WIDER and can_widen(name)]
SHAPES = {anatomy.of(tiny_model(name)).shape.name: name for name in reversed(ROWS)}
every_model = pytest.mark.parametrize("name", ROWS)
every_shape = pytest.mark.parametrize("name", list(SHAPES.values()), ids=list(SHAPES))


def grown(name: str, **sizes: Any) -> tuple[Anatomy, Tensor, Tensor, Any]:
    """A float64 model with large weights after growth, its outputs before and after, and the report."""
    body = enlarged_copy(tiny_model(name))
    inputs = example_inputs(body)
    before = outputs_of(body, inputs)
    report = bert2bert_(body, Bert2BertConfig(**sizes))
    after = outputs_of(body, inputs)
    # A model without a head answers with hidden states, whose first coordinates are the old ones.
    return body, before, after if after.shape == before.shape else after[..., : before.shape[-1]], report


@every_model
def test_fpi_keeps_the_function(name: str) -> None:
    """Catches a reader that is not divided, a second map of the residual stream, a tied head that is scaled twice, half
    a head that is copied: at twice the width in everything, every family computes what it computed."""
    small = anatomy.of(tiny_model(name))
    body, before, after, report = grown(name, mode="fpi")
    assert report.keeps_function and difference(after, before) < ROUNDED
    assert body.hidden_size == 2 * small.hidden_size and body.ties == small.ties
    for block, was in zip(body.blocks, small.blocks, strict=True):
        assert block.attention.num_heads == 2 * was.attention.num_heads and block.ffn.width == 2 * was.ffn.width


@every_shape
def test_fpi_at_other_factors(name: str) -> None:
    """Catches heads and features that grow by whole factors only: with the hidden features as they are, any number of
    copies keeps the function; where a norm takes all heads together, whole factors do."""
    body = anatomy.of(tiny_model(name))
    groups = body.blocks[0].attention.num_kv_heads
    more = 2 * groups if takes_heads_together(body) else groups + 1
    heads = body.blocks[0].attention.num_heads // groups * more
    features = body.blocks[0].ffn.width + 5
    if len({block.ffn.width for block in body.blocks}) > 1:
        features = 2 * body.blocks[0].ffn.width  # the other widths follow in the same ratio
    body, before, after, report = grown(name, mode="fpi", num_attention_heads=heads, intermediate_size=features)
    assert (body.blocks[0].attention.num_heads, body.blocks[0].ffn.width) == (heads, features)
    assert report.keeps_function and difference(after, before) < ROUNDED


def takes_heads_together(body: Anatomy) -> bool:
    return any(norm.gain.axes[0].has(own.kv_heads) for own in body.attentions() for norm in own.norms())


def test_norms_over_all_heads_need_whole_factors() -> None:
    """Catches a report that promises a function which such a norm does not keep, unless the anatomy refuses already."""
    try:
        _, before, after, report = grown("olmo2", mode="fpi", num_attention_heads=6)
    except UnsupportedModel as error:
        assert "norm" in str(error)
    else:
        assert not report.keeps_function and difference(after, before) > ROUNDED


@every_shape
def test_hidden_features_at_uneven_factors_change_norms(name: str) -> None:
    """Catches a report that promises a function which norms over unequal copies do not keep; that it is near is shown
    by training, not here."""
    small = anatomy.of(tiny_model(name))
    first = small.blocks[0]
    sizes = {"num_attention_heads": first.attention.num_heads, "intermediate_size": first.ffn.width}
    body, before, after, report = grown(name, mode="fpi", hidden_size=small.hidden_size * 3 // 2, **sizes)
    assert body.hidden_size == small.hidden_size * 3 // 2 and not report.keeps_function
    assert difference(after, before) > ROUNDED


def test_aki_divides_by_the_copies_of_its_own_map() -> None:
    """Catches new features that are chosen by the map of the block above, beside divisors of the block's own."""
    old, new = enlarged_copy(tiny_model("gpt2")), enlarged_copy(tiny_model("gpt2"))
    bert2bert_(new, Bert2BertConfig(mode="aki", intermediate_size=160))
    was, above, becomes = old.blocks[0].ffn, old.blocks[1].ffn, new.blocks[0].ffn
    chosen = copies_of(above.up.read().T, becomes.up.read()[128:].T)
    copies = 1.0 + torch.tensor(chosen).bincount(minlength=128)
    torch.testing.assert_close(becomes.down.read()[:, :128], was.down.read() / copies)
    torch.testing.assert_close(becomes.down.read()[:, 128:], (above.down.read() / copies)[:, chosen])


@pytest.mark.parametrize("mode", ["fpi", "aki"])
@pytest.mark.parametrize("name", ["llama-grouped-untied", "gpt2", "bert", "qwen3_moe"])
def test_values_by_loops(name: str, mode: str) -> None:
    """Catches a wrong source, divisor or axis: every head and feature of every block against plain loops over the old
    weights, block l + 1's for the new ones."""
    old = enlarged_copy(tiny_model(name))
    new = enlarged_copy(tiny_model(name))
    bert2bert_(new, Bert2BertConfig(mode=mode, hidden_size=64, seed=3))
    g = copies_of(old.embedding.read(), new.embedding.read())  # type: ignore[union-attr]
    assert g[:32] == list(range(32)) and all(g.count(i) == 2 for i in range(32))
    for index, (was, becomes) in enumerate(zip(old.blocks, new.blocks, strict=True)):
        above = old.blocks[index + 1] if mode == "aki" and index + 1 < len(old.blocks) else was
        for part, writer, reader in (("attention", "value", "output"), ("ffn", "up", "down")):
            if part == "ffn" and was.ffn.experts is not None:
                continue
            source = was if part == "ffn" and above.ffn.experts is not None else above
            up, down = (getattr(getattr(becomes, part), name).read() for name in (writer, reader))
            rows = torch.cat([getattr(getattr(each, part), writer).read() for each in (was, source)])[:, g] / 2
            columns = torch.cat([getattr(getattr(each, part), reader).read() for each in (was, source)], 1)[g]
            half = len(up) // 2
            assert torch.equal(up[:half], rows[:half])
            chosen = [half + i for i in copies_of(rows[half:].T, up[half:].T)]
            assert sorted(chosen) == list(range(half, 2 * half))
            if was.attention.num_heads == was.attention.num_kv_heads or part == "ffn":
                expected = columns[:, [*range(half), *chosen]] / 2
                assert torch.allclose(down, expected, rtol=1e-14, atol=0)


def copies_of(old_XI: Tensor, new_XJ: Tensor) -> list[int]:
    """The old column that each new column is."""
    return [next(i for i in range(old_XI.shape[1]) if torch.equal(old_XI[:, i], column)) for column in new_XJ.T]


@every_shape
def test_aki_is_another_function_with_the_same_maps(name: str) -> None:
    """Catches `aki` that copies as `fpi` does, or that moves anything but the new heads and features: embeddings, norms
    over hidden features and the last blocks are those of `fpi`."""
    aki, before, after, report = grown(name, mode="aki", seed=1)
    fpi = grown(name, mode="fpi", seed=1)[0]
    assert not report.keeps_function and after.isfinite().all()
    if len({stack.blocks[0].ffn.experts is None for stack in aki.stacks}) == 1:
        assert difference(after, before) > ROUNDED
    last = {id(stack.blocks[-1]) for stack in aki.stacks}
    for one, other in zip(aki.blocks, fpi.blocks, strict=True):
        same = all(torch.equal(a.read(), b.read()) for a, b in zip(one.parts(), other.parts(), strict=True))
        assert same == (id(one) in last)
    around = [
        [part for part in body.parts() if not any(part.name.startswith(f"{block.path}.") for block in body.blocks)]
        for body in (aki, fpi)
    ]
    assert all(torch.equal(a.read(), b.read()) for a, b in zip(*around, strict=True))


@every_shape
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """Catches a configuration that does not say what was grown: in proportion, families fit their own fields, and
    transformers alone loads them."""
    model = tiny_model(name)
    bert2bert_(model)
    body = anatomy.of(model)
    assert body.loads_with == ("pomona" if name in LOADED_BY_POMONA else "transformers")
    inputs = example_inputs(body)
    model.save_pretrained(tmp_path)
    auto = getattr(transformers, TINY[name].auto)
    again = anatomy.load(tmp_path) if name in LOADED_BY_POMONA else auto.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(outputs_of(anatomy.of(again), inputs), outputs_of(body, inputs))


def test_ties_stay() -> None:
    """Catches a tied head that is untied, and logits that change with it (the norm before it is divided)."""
    body, before, after, _ = grown("llama", mode="fpi", hidden_size=96)
    assert body.ties == [("model.embed_tokens.weight", "lm_head.weight")]
    assert difference(after, before) < ROUNDED


def test_depth_is_stacking_after_width() -> None:
    """Catches another order of blocks, and a deeper model whose blocks are not the widened ones."""
    wide, deep = llama(), llama()
    bert2bert_(wide, Bert2BertConfig(hidden_size=64))
    report = bert2bert_(deep, Bert2BertConfig(hidden_size=64, blocks=5))
    assert report.order == (0, 1, 0, 1, 0) and (report.blocks_before, report.blocks_after) == (2, 5)
    assert not report.keeps_function and deep.config.num_hidden_layers == 5
    for place, index in enumerate(report.order):
        own, source = deep.model.layers[place].state_dict(), wide.model.layers[index].state_dict()
        assert all(torch.equal(value, source[name]) for name, value in own.items())


def test_the_seed_decides() -> None:
    """Catches a draw that is not the seed's alone."""
    maps = [width_map(10, 27, torch.Generator().manual_seed(seed)).tolist() for seed in (0, 0, 1)]
    assert maps[0] == maps[1] != maps[2] and maps[0][:10] == list(range(10))
    counts = torch.tensor(maps[0]).bincount()
    assert counts.min() == 2 and counts.max() == 3
    models = [llama() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.manual_seed(seed + 7)
        bert2bert_(model, Bert2BertConfig(seed=seed))
    one, other, third = (model.model.embed_tokens.weight for model in models)
    assert torch.equal(one, other) and not torch.equal(one, third)


@pytest.mark.parametrize(
    ("name", "sizes", "error", "remedy"),
    [
        ("llama", {"hidden_size": 16}, ConfigError, "choose a larger number"),
        ("llama", {"num_attention_heads": 3}, ConfigError, "at least the present 4"),
        ("llama", {"hidden_size": 36}, ConfigError, "name num_attention_heads"),
        ("llama-grouped-untied", {"num_attention_heads": 5}, ConfigError, "grow as whole groups"),
        ("llama", {"hidden_size": 32}, ConfigError, "changed nothing"),
        ("gpt2-by-depth", {"hidden_size": 64, "blocks": 6}, UnsupportedModel, "choose a model without this option"),
        ("t5", {"blocks": 6}, UnsupportedModel, "one stack of blocks"),
        ("opt", {"hidden_size": 64}, UnsupportedModel, "nothing was changed"),
    ],
)
def test_refusals(name: str, sizes: dict[str, Any], error: type[Exception], remedy: str) -> None:
    """Catches a refusal that comes after something has changed, or does not say what to do."""
    model = tiny_model(name)
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    with pytest.raises(error, match=remedy):
        bert2bert_(model, Bert2BertConfig(**sizes))
    after = model.state_dict()
    assert config == model.config.to_dict() and all(torch.equal(before[key], after[key]) for key in before)


def test_recipe_command_and_python_are_the_function(tmp_path: Path) -> None:
    """Catches a stage that does not take the method's parameters, or computes something else."""
    folder = tmp_path / "small"
    llama().save_pretrained(folder)
    words = Tokenizer(WordLevel({"apple": 0, "pear": 1}, unk_token="apple"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    values = {"method": "bert2bert", "hidden_size": 64, "mode": "fpi", "seed": 5}
    made = call("grow", {"from": str(folder), **values}, tmp_path / "stage")
    python = pomona.grow(folder, out=tmp_path / "python", **values)
    model = llama()
    bert2bert_(model, Bert2BertConfig(hidden_size=64, mode="fpi", seed=5))
    for artefact in (made, python):
        loaded = anatomy.load(artefact.folder).state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    assert made.facts["note"] == "bert2bert, 2 blocks to 2, width 32 to 64"

"""Edits: what is cut equals what is masked, copies keep the function, configurations stay true, all or nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from pomona.anatomy import Anatomy, Attention, Edit, Space, of, permute_, verify
from pomona.anatomy.architecture import build
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.check import difference
from pomona.anatomy.probes.lab import enlarged_copy, outputs_of
from pomona.anatomy.weight import Weight
from pomona.ground.errors import ConfigError, UnsupportedModel

from .conftest import TOWERS, inputs_of, make, shape_in

EXACT = 1e-9
"""Largest relative difference in float64; norms that compute in float32 see the same numbers on both sides."""
ROUNDED = 1e-5
"""The same where norms in float32 see numbers of another size, or scores are divided by a root in float32."""
Chosen = dict[Space, list[int]]


def body_of(name: str) -> Anatomy:
    """A float64 model with large weights."""
    return enlarged_copy(make(name), shape_in(name))


def some(space: Space, seed: int = 0, share: float = 0.6) -> list[int]:
    """Some coordinates of a space, as many of each parent's run."""
    generator = torch.Generator().manual_seed(seed)
    runs = 1 if space.parent is None else space.parent.size
    run = space.size // runs
    keep = max(1, int(run * share)) if run < 8 else max(8, int(run * share / 8) * 8)  # experts need full rows
    return [i * run + j for i in range(runs) for j in sorted(torch.randperm(run, generator=generator)[:keep].tolist())]


def outer(space: Space) -> Space:
    return space.parent or space


def features(body: Anatomy, vary: bool = False) -> Chosen:
    """Features of every feed-forward; of all but the first in a stack when they vary."""
    return {b.ffn.features: some(b.ffn.features, b.index) for b in body.blocks if b.index > 0 or not vary}


def apart(body: Anatomy) -> list[Attention]:
    """The attentions whose heads do not see each other through a norm over all of them."""
    return [a for a in body.attentions() if not any(norm.gain.axes[0].has(outer(a.heads)) for norm in a.norms())]


def heads(body: Anatomy, vary: bool = False) -> Chosen:
    """Key-value heads with the query heads that use them; fewer in one attention when they vary."""
    spaces = dict.fromkeys(outer(attention.heads) for attention in apart(body))
    return {space: some(space, seed, 0.5 if vary and seed == 1 else 0.75) for seed, space in enumerate(spaces)}


def query_heads(body: Anatomy) -> Chosen:
    """Query heads alone, as many of each key-value head."""
    spaces = dict.fromkeys(a.heads for a in apart(body) if a.heads.parent is not None)
    return {space: some(space, seed) for seed, space in enumerate(spaces)}


CUTS: dict[str, Callable[[Anatomy], Chosen]] = {
    "alike": lambda body: {**features(body), **heads(body)},
    "varied": lambda body: {**features(body, vary=True), **heads(body, vary=True)},
    "query heads": query_heads,
}


def mask_(body: Anatomy, chosen: Chosen) -> None:
    """Zero what reads the coordinates that are not kept."""
    for part in body.parts():
        for dim, axis in enumerate(part.axes):
            for space, kept in chosen.items():
                if axis.has(space) and part.kind == "linear" and dim == 1:
                    mask = torch.zeros(axis.size, dtype=torch.float64)
                    mask[axis.indices(space, torch.tensor(kept))] = 1.0
                    part.write_(part.read() * mask)


def cut_(body: Anatomy, chosen: Chosen) -> None:
    with body.edit() as edit:
        for space, kept in chosen.items():
            edit.keep(space, kept)


@pytest.mark.parametrize("cut", list(CUTS))
@pytest.mark.parametrize("name", TOWERS)
def test_cut_equals_masked(name: str, cut: str) -> None:
    """Breaks when a weight of the group is not cut, is cut elsewhere, or a module keeps an old size."""
    body = body_of(name)
    chosen = CUTS[cut](body)
    if not chosen:
        return  # a model without such a space
    masked = of(copy.deepcopy(body.model), body.shape)
    mask_(masked, chosen)
    inputs = example_inputs(body)
    expected = outputs_of(masked, inputs)
    before = body.parameter_count()
    cut_(body, chosen)
    assert difference(outputs_of(body, inputs), expected) < EXACT
    assert body.parameter_count() < before
    sizes = {(space.scope, space.name): space.size for space in body.spaces()}
    assert all(sizes.get((s.scope, s.name), len(kept)) == len(kept) for s, kept in chosen.items())


def copies(space: Space) -> list[int]:
    return [*range(space.size), *range(space.size)]


def within_blocks(body: Anatomy) -> Chosen:
    """Copies of features, of heads, and of what heads consist of where positions do not turn it."""
    found = {b.ffn.features: [*range(b.ffn.features.size), 3, 3, 5, 0] for b in body.blocks if b.ffn.experts is None}
    found |= {outer(a.heads): copies(outer(a.heads)) for a in body.attentions()}
    free = [a for a in body.attentions() if all(b.rotary == 0 for b in body.attentions())]
    return found | {space: copies(space) for a in free for space in (a.head_dim, a.value_dim)}


ONE_WIDTH = {
    **dict.fromkeys(("opt", "electra-square"), "projection of embeddings that are narrower than the blocks"),
    **dict.fromkeys(("videomae", "videomae-first"), "sinusoids of each position"),
    **dict.fromkeys(("wav2vec2", "wav2vec2-stable", "hubert"), "a grouped convolution"),
}
"""Models whose hidden states cannot get copies, and why: no configuration of theirs computes the same."""


@pytest.mark.parametrize("name", TOWERS)
def test_copies_keep_the_function(name: str) -> None:
    """Breaks when a reader is not scaled, a tied head is scaled with the embedding, a factor follows a size, or when a
    size that asks for another computation is not refused."""
    body = body_of(name)
    inputs = example_inputs(body)
    expected = outputs_of(body, inputs)
    in_double = apart(body) == body.attentions() and not any(a.position_kinds for a in body.attentions())
    expand_(body, within_blocks(body))
    assert difference(outputs_of(body, inputs), expected) < (EXACT if in_double else ROUNDED)
    if name in ONE_WIDTH:
        before = outputs_of(body, inputs)
        with pytest.raises(UnsupportedModel, match=rf"nothing was changed(.|\n)*{ONE_WIDTH[name]}"):
            expand_(body, {body.residual: copies(body.residual)})
        assert torch.equal(outputs_of(body, inputs), before)
        return
    expand_(body, {body.residual: copies(body.residual)})
    found = outputs_of(body, inputs)
    hidden_twice = expected if found.shape == expected.shape else torch.cat([expected, expected], -1)
    assert difference(found, hidden_twice) < ROUNDED
    assert body.hidden_size == 2 * of(make(name), shape_in(name)).hidden_size


def expand_(body: Anatomy, chosen: Chosen) -> None:
    with body.edit() as edit:
        for space, source in chosen.items():
            edit.expand(space, source)


@torch.no_grad()
def test_what_reads_all_maps_follows_heads_and_blocks() -> None:
    """Breaks when a head on the attention maps keeps the columns of heads that are gone, copied or elsewhere."""
    body = body_of("esm")
    body.model.set_attn_implementation("eager")
    given = torch.arange(4, 16)[None], torch.ones(1, 12, dtype=torch.int64)
    expected = body.model.predict_contacts(*given)
    contacts = body.around["contacts"]
    assert isinstance(contacts, Weight) and contacts.axes[1].name == "head+head+head"
    expand_(body, heads := {a.heads: copies(a.heads) for a in body.attentions()})
    assert len(heads) == 3 and body.around["contacts"].shape == (1, 24)  # type: ignore[union-attr]
    permute_(body, body.blocks[1].attention.heads, torch.arange(8).flip(0))
    torch.testing.assert_close(body.model.predict_contacts(*given), expected)
    body.restack_([0, 2])
    assert body.around["contacts"].shape == (1, 16)  # type: ignore[union-attr]
    cut_(body, {a.heads: [0, 1, 5] for a in body.attentions()})
    assert body.model.predict_contacts(*given).isfinite().all()


@pytest.mark.parametrize("name", TOWERS)
def test_the_edited_model_is_what_its_configuration_builds(name: str) -> None:
    """Breaks when a number in a module, a buffer or a field differs from what a loaded folder would have."""
    for cut in ("alike", "varied"):
        model = make(name)
        body = of(model, shape_in(name))
        plan = planned(body, CUTS[cut](body))
        cut_(body, CUTS[cut](body))
        assert body.parameter_count() == plan.parameters_after
        built = build(type(model), model.config)
        for (path, own), (_, fresh) in zip(model.named_modules(), built.named_modules(), strict=True):
            for key, value in vars(fresh).items():
                if isinstance(value, int | float | str | tuple):
                    assert vars(own)[key] == value or key == "training", f"{path}.{key}"
        assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in built.named_parameters()}


def planned(body: Anatomy, chosen: Chosen) -> Any:
    edit = Edit(body)
    for space, kept in chosen.items():
        edit.keep(space, kept)
    return edit.plan()


@pytest.mark.parametrize("name", ["llama-grouped-untied", "gpt2", "bert", "t5"])
def test_an_edited_model_passes_every_probe(name: str) -> None:
    """Breaks when the anatomy of a model whose blocks differ is not true any more."""
    body = of(make(name))
    cut_(body, CUTS["varied"](body))
    failures = [check for check in verify(body.model).failures if check.probe != "sizes"]
    assert not failures, failures


def test_plans_say_what_loads_the_result() -> None:
    """Breaks when a plan promises transformers what it cannot build, or says pomona where a field would do."""
    body = of(make("mistral"))
    alike = planned(body, heads(body))
    assert (alike.loads_with, alike.fields) == ("transformers", {"num_attention_heads": 2, "num_key_value_heads": 1})
    assert "loads with transformers" in str(alike)
    varied = planned(body, features(body, vary=True))
    assert varied.loads_with == "pomona" and varied.fields == {}
    assert varied.recorded["model.layers.1"] == {"feed_forward": 24}
    assert "loads with pomona.anatomy.load only: 2 sizes" in str(varied)
    assert "feed_forward[48] of model.layers.1: 48 to 24" in str(varied)
    gpt2 = of(make("gpt2"))
    assert planned(gpt2, features(gpt2)).fields == {"n_inner": 72}
    assert planned(gpt2, heads(gpt2)).loads_with == "pomona", "its heads are as many as hidden size allows"
    assert body.parameter_count() == of(make("mistral")).parameter_count()


def test_fields_that_default_to_others_are_held() -> None:
    """Breaks when a change of the hidden size changes the features, or the size of heads, that follow it by default."""
    gpt2, qwen2 = of(make("gpt2")), of(make("qwen2"))
    for body in (gpt2, qwen2):
        with body.edit() as edit:
            edit.expand(body.residual, copies(body.residual))
    assert gpt2.config.n_embd == 64 and gpt2.config.n_inner == 128
    assert gpt2.blocks[0].attention.head_dim.size == 8
    # Not a declared field, yet read by the model.
    assert (qwen2.config.hidden_size, qwen2.config.head_dim) == (64, 8) and not hasattr(qwen2.config, "pomona")


def state_of(model: Any) -> dict[str, Any]:
    """Everything that an edit may change, by identity where identity counts."""
    return {
        "parameters": {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)},
        "values": {n: p.detach().clone() for n, p in model.named_parameters()},
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "buffers": {n: id(b) for n, b in model.named_buffers()},
        "numbers": {
            (path, key): value
            for path, module in model.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, int | float | str | tuple)
        },
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    values, again = one.pop("values"), other.pop("values")
    assert one == other
    assert all(torch.equal(value, again[name]) for name, value in values.items())


class Planned(Exception):
    """A failure that nothing handles."""


STEPS = [
    "pomona.anatomy.edits.build",
    "pomona.anatomy.edits.expressed",
    "pomona.anatomy.edits.scales",
    "pomona.anatomy.edits.values_after",
    "pomona.anatomy.edits.require_runs",
    "pomona.anatomy.edits.transplant_",
    "pomona.anatomy.architecture._follow_config",
    "pomona.anatomy.body.Anatomy.refresh",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "midway"])
def test_failures_change_nothing(step: str, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when any step of an edit leaves something behind when it fails."""
    model = make("t5")
    body = of(model)
    inputs = example_inputs(body)
    before, expected = state_of(model), outputs_of(body, inputs)
    edit = Edit(body)
    for space, kept in {**features(body), **heads(body, True), body.residual: range(24)}.items():
        edit.keep(space, list(kept))
    edit.plan()
    place, _, name = step.rpartition(".")
    owner: Any = pytest.importorskip(place) if not place.endswith("Anatomy") else Anatomy
    real, calls = getattr(owner, name), []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if not late or len(calls) > 3:
            raise Planned
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
    edit._prepared = None
    try:
        edit.apply()
    except Planned:
        monkeypatch.undo()
        assert_same(before, state_of(model))
        assert torch.equal(outputs_of(body, inputs), expected)
    else:
        assert late and len(calls) <= 3, "the step failed, and nobody said so"


def test_an_exception_in_the_block_discards_the_edit() -> None:
    """Breaks when half of a plan is carried out."""
    model = make("llama")
    before = state_of(model)
    with pytest.raises(ZeroDivisionError), of(model).edit() as edit:
        edit.keep(of(model).blocks[0].ffn.features, [0])
        1 / 0  # noqa: B018
    assert_same(before, state_of(model))


def test_what_is_not_touched_stays_the_same_object() -> None:
    """Breaks when ties are lost, hooks vanish, or all is replaced, so that optimizers and references go stale."""
    model = make("llama").train()
    model.model.layers[1].mlp.requires_grad_(False)
    called: list[int] = []
    model.model.layers[0].mlp.register_forward_hook(lambda *args: called.append(1))
    before = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules())
    ties = of(model).ties
    with of(model).edit() as edit:
        edit.keep(of(model).blocks[1].ffn.features, range(10))
    after = dict(model.named_parameters(remove_duplicate=False))
    changed = {name for name in before if before[name] is not after[name]}
    assert changed == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert not any(after[name].requires_grad for name in changed) and model.training
    assert of(model).ties == ties and dict(model.named_modules()) == modules
    model(**inputs_of(model))
    assert called


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    """Breaks when an edit converts weights or buffers."""
    model = make("qwen2").to(dtype)
    body = of(model)
    cut_(body, {**features(body), **heads(body), body.residual: list(range(0, 32, 2))})
    assert {p.dtype for p in [*model.parameters(), *model.buffers()]} == {dtype}
    assert body.hidden_size == 16 and outputs_of(body, example_inputs(body)).isfinite().all()


def test_gradients_flow_and_generation_caches(causal_model: Any) -> None:
    """Breaks when a new parameter is not part of the graph, or the cache expects other sizes."""
    body = of(causal_model)
    cut_(body, CUTS["varied"](body))
    causal_model(**inputs_of(causal_model)).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for _, p in body.matrices())
    ids = inputs_of(causal_model, tokens=6)["input_ids"]
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    given = {"attention_mask": torch.ones_like(ids), **settings}
    cached = causal_model.generate(ids, use_cache=True, **given)
    assert torch.equal(cached, causal_model.generate(ids, use_cache=False, **given))


@torch.no_grad()
def test_vocabulary() -> None:
    """Breaks when rows of head and embedding part, or a special token points at another row."""
    for name in ("llama", "llama-grouped-untied", "gpt2", "bert"):
        body = body_of(name)
        generation = getattr(body.model, "generation_config", body.config)
        body.config.pad_token_id = generation.pad_token_id = 90
        kept = [0, *range(50, 96)]
        ids = torch.arange(50, 62)[None]
        expected = body.model(input_ids=ids).logits[..., kept]
        with body.edit() as edit:
            edit.keep(body.vocabulary, kept)
        found = body.model(input_ids=ids - 49).logits
        assert difference(found, expected) < EXACT
        assert body.config.vocab_size == 47 and body.config.pad_token_id == 41
        assert generation.pad_token_id == 41
        with body.edit() as edit:
            edit.expand(body.vocabulary, [*range(47), 3, 3])
        assert difference(body.model(input_ids=ids - 49).logits[..., 48], found[..., 3]) < EXACT
    with pytest.raises(ConfigError, match=r"loses a special token(.|\n)*row 41, which is pad_token_id"):
        cut_(body, {body.vocabulary: list(range(40))})


def test_written_values() -> None:
    """Breaks when values are written to another part of a fused parameter, or before the cut."""
    body = of(make("gpt2"))
    block = body.blocks[1]
    values = torch.randn(32, 16)
    value = torch.randn(16, 32)
    with body.edit() as edit:
        edit.keep(block.attention.heads, [0, 3])
        edit.write(block.attention.output, values)
        edit.write(block.attention.value, value)
    after = body.blocks[1].attention
    assert torch.equal(after.output.read(), values) and torch.equal(after.value.read(), value)
    with pytest.raises(ValueError, match="has shape"), body.edit() as edit:
        edit.write(after.output, torch.zeros(3, 3))
    kept = after.query.read().clone()
    with body.edit() as edit:
        edit.write(after.value, torch.zeros(16, 32))
    assert torch.equal(body.blocks[1].attention.query.read(), kept)


def test_readers_by_hand() -> None:
    """Breaks when factors stand at the writers, or copies share no sum."""
    body = of(make("llama"))
    ffn = body.blocks[0].ffn
    up, down = ffn.up.read().clone(), ffn.down.read().clone()
    source = [*range(48), 5, 5]
    with body.edit() as edit:
        edit.expand(ffn.features, source)
    assert torch.equal(body.blocks[0].ffn.up.read(), up[source])
    third = torch.where(torch.tensor([s == 5 for s in source]), 1 / 3, 1.0)
    torch.testing.assert_close(body.blocks[0].ffn.down.read(), down[:, source] * third)
    for readers, factor in (("copy", torch.ones(48)), (torch.linspace(0, 1, 48), torch.linspace(0, 1, 48))):
        other = of(make("llama"))
        with other.edit() as edit:
            edit.expand(other.blocks[0].ffn.features, range(48), readers)  # type: ignore[arg-type]
        torch.testing.assert_close(other.blocks[0].ffn.down.read(), down * factor)


def test_plans_need_no_values() -> None:
    """Breaks when an edit cannot be planned and made for a model on the meta device."""
    with torch.device("meta"):
        model = make("mistral")
    body = of(model)
    cut_(body, {**features(body, True), **heads(body)})
    assert model.model.layers[1].mlp.up_proj.weight.shape == (24, 32)
    assert all(parameter.is_meta for parameter in model.parameters())


# ---- refusals


@pytest.fixture
def body() -> Iterator[Anatomy]:
    """A model that must be as it was when the test ends."""
    model = make("llama-grouped-untied")
    before = state_of(model)
    yield of(model)
    assert_same(before, state_of(model))


@pytest.mark.parametrize(
    ("indices", "message"), [([], "at least one"), ([3, 1], "ascending"), ([1, 1], "different"), ([0, 48], "found: 48")]
)
def test_bad_coordinates(body: Anatomy, indices: list[int], message: str) -> None:
    """Breaks when an index error appears deep in torch, or a cut reorders silently."""
    with pytest.raises(ConfigError, match=message), body.edit() as edit:
        edit.keep(body.blocks[0].ffn.features, indices)


def test_groups_stay_equal(body: Anatomy) -> None:
    """Breaks when a key-value head loses more query heads than another."""
    query = body.blocks[0].attention.heads
    for kept in ([0, 1, 2], [0, 1], [0]):
        with pytest.raises(ConfigError, match=r"equal groups(.|\n)*of kv_head|as many for each"), body.edit() as edit:
            edit.keep(query, kept)


def test_heads_that_a_norm_takes_together() -> None:
    """Breaks when a head is cut although the others would be computed otherwise without it."""
    olmo2, qwen3 = of(make("olmo2")), of(make("qwen3"))
    assert "separate_heads" in qwen3.capabilities and "separate_heads" not in olmo2.capabilities
    for name in ("heads", "kv_heads"):
        space = getattr(olmo2.blocks[0].attention, name)
        kept = [0, 2] if name == "heads" else [1]
        for change in (Edit(olmo2).keep, Edit(olmo2).expand):
            with pytest.raises(UnsupportedModel, match=r"separate_heads(.|\n)*mean over all heads"):
                change(space, kept)
    with olmo2.edit() as edit:
        edit.keep(olmo2.blocks[0].ffn.features, [0, 1])


def test_contradictions(body: Anatomy) -> None:
    """Breaks when one change silently wins over another."""
    attention = body.blocks[0].attention
    with pytest.raises(ConfigError, match="changed twice"), body.edit() as edit:
        edit.keep(attention.heads, [0, 2])
        edit.keep(attention.kv_heads, [0])
    with pytest.raises(ConfigError, match="changes nothing"), body.edit():
        pass
    with pytest.raises(ConfigError, match="factors of feed_forward"), body.edit() as edit:
        edit.expand(body.blocks[0].ffn.features, [0, 1], torch.ones(3))


def test_sizes_that_cannot_change(body: Anatomy) -> None:
    """Breaks when rotary features or tables of positions are cut, which would change what is computed."""
    with pytest.raises(UnsupportedModel, match="rotary positions"), body.edit() as edit:
        edit.keep(body.blocks[0].attention.head_dim, [0, 1])
    gpt2 = of(make("gpt2"))
    positions = next(space for space in gpt2.spaces() if space.name == "position")
    with pytest.raises(UnsupportedModel, match="told apart from outside"), gpt2.edit() as edit:
        edit.keep(positions, [0, 1])
    with pytest.raises(ConfigError, match="keys and values of one head"), gpt2.edit() as edit:
        edit.keep(gpt2.blocks[0].attention.head_dim, [0, 1])
    with pytest.raises(ConfigError, match="not a space of this model"), body.edit() as edit:
        edit.keep(gpt2.blocks[0].ffn.features, [0, 1])
    with pytest.raises(ConfigError, match="not a weight of this model"), body.edit() as edit:
        edit.write(gpt2.blocks[0].ffn.up, torch.zeros(1))


def test_parts_that_nobody_sees() -> None:
    """Breaks when a classifier is left with inputs that are gone; what it does not read can still be cut."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = BertForSequenceClassification(BertConfig(**sizes, vocab_size=96)).eval()
    body = of(model, replace(of(model).shape, around=()))
    with pytest.raises(UnsupportedModel, match="pooler"):
        cut_(body, {body.residual: list(range(16))})
    cut_(body, features(body))
    assert model(input_ids=torch.arange(5)[None]).logits.shape == (1, 2)
    whole = of(model)
    cut_(whole, {whole.residual: list(range(16))})
    assert model.bert.pooler.dense.weight.shape == (32, 16)
    assert model(input_ids=torch.arange(5)[None]).logits.shape == (1, 2)


def test_models_that_are_not_what_their_configuration_says() -> None:
    """Breaks when an adapter or a quantized layer is edited as if it were the weight."""
    model = make("llama")
    body = of(model)
    model.model.layers[1].mlp.adapter = nn.Linear(3, 3)
    before = state_of(model)
    with pytest.raises(UnsupportedModel, match=r"adapter(.|\n)*merge adapters"):
        cut_(body, {body.blocks[0].ffn.features: [0, 1]})
    with pytest.raises(UnsupportedModel, match=r"adapter(.|\n)*merge what was added"):
        of(model)
    assert_same(before, state_of(model))


def test_numbers_that_are_not_finite_are_not_put_in(body: Anatomy) -> None:
    """Breaks when the edited model is not run before the old parameters are gone."""
    down: Weight = body.blocks[0].ffn.down
    with pytest.raises(UnsupportedModel, match="not finite"), body.edit() as edit:
        edit.write(down, torch.full(down.shape, float("nan")))


def test_a_tied_head_without_a_norm_before_it() -> None:
    """Breaks when a tied head is scaled with the embedding, which would change the function."""
    body = of(make("gpt2"))
    values: Tensor = body.embedding.read().clone()
    with body.edit() as edit:
        edit.expand(body.residual, copies(body.residual))
    assert torch.equal(body.embedding.read()[:, 32:], values)
    assert torch.equal(body.final_norm.gain.read(), torch.full((64,), 0.5))  # type: ignore[union-attr]

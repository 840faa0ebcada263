"""Modifiers of attention compose exactly, refuse by name what cannot be composed, and leave nothing behind."""

from __future__ import annotations

import gc
import importlib
import weakref
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
)
from transformers.masking_utils import eager_mask

from pomona.anatomy import Modifier, Place, modify_attention, of, tap_inputs, tap_outputs, towers, use_attention
from pomona.anatomy.attention import EXPLICIT
from pomona.anatomy.attention_call import ALONE, MEANING, AttentionCall, Effect, call_of
from pomona.anatomy.dispatch import _BY_MODULE, _ON_MODEL, KERNELS, NAME, compute
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.modifiers import (
    AttentionMaps,
    Bidirectional,
    HeadGate,
    OtherProbabilities,
    ScoreBias,
    SparseMask,
    Temperature,
    own,
)
from pomona.anatomy.tiny import SIZES
from pomona.ground.errors import ConfigError, UnsupportedModel

from .conftest import inputs_of, make

HEADS = 4


def by_hand(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, seen: Tensor, bias: Tensor, factor: Tensor, gate: Tensor
) -> Tensor:
    """One query of one head after another, from the equation; score = factor * (scaling q.k + bias)."""
    groups = query.shape[1] // key.shape[1]
    out = torch.zeros(*query.shape[:3], value.shape[-1], dtype=query.dtype)
    for b in range(query.shape[0]):
        for n in range(query.shape[1]):
            for t in range(query.shape[2]):
                score = factor[n] * (scaling * key[b, n // groups] @ query[b, n, t] + bias[n, t])
                weight = torch.where(seen[b, t], score, -torch.inf).softmax(-1)
                out[b, n, t] = gate[b, n] * (weight @ value[b, n // groups])
    return out.transpose(1, 2)


def call_with(modifiers: list[Modifier], causal: bool, kv_heads: int, **changes: Any) -> AttentionCall:
    torch.manual_seed(0)
    attention = of(make("llama")).blocks[0].attention
    given = [torch.randn(2, heads, 7, 8, dtype=torch.float64) for heads in (HEADS, kv_heads, kv_heads)]
    call = AttentionCall(Place("blocks", 0, False), attention, *given, 0.4, causal, None, **changes)
    for modifier in modifiers:
        call._allowed = modifier.effects
        modifier.modify(call)
    return call


def parts(tokens: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A mask (with the diagonal), a bias, a temperature per head and a gate per sequence and head."""
    generator = torch.Generator().manual_seed(1)
    seen = (torch.rand(2, tokens, tokens, generator=generator) < 0.4) | torch.eye(tokens, dtype=torch.bool)
    bias = torch.randn(HEADS, tokens, tokens, generator=generator, dtype=torch.float64)
    return seen, bias, torch.tensor([0.5, 1.0, 2.0, 3.0]), torch.rand(2, HEADS, generator=generator).double()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("kernel", [kernel.name for kernel in KERNELS])
def test_modifiers_compose_as_the_equation_says(
    kernel: str, kv_heads: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks when one modifier undoes another, or when a kernel leaves a term out: against loops over queries."""
    monkeypatch.setattr("pomona.anatomy.dispatch.QUERIES_AT_ONCE", 3)
    seen, bias, temperature, gate = parts()
    tril = torch.ones(7, 7, dtype=torch.bool).tril() if causal else torch.ones(7, 7, dtype=torch.bool)
    modifiers = [ScoreBias(bias), SparseMask(seen[:, None]), Temperature(temperature), HeadGate(gate)]
    call = call_with(modifiers, causal, kv_heads)
    expected = by_hand(call.query, call.key, call.value, 0.4, seen & tril, bias, 1 / temperature.double(), gate)
    chosen = next(k for k in KERNELS if k.name == kernel)
    found = (chosen.compute(call) * call.gate).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(compute(call), expected, rtol=1e-6, atol=1e-7)


def test_the_order_of_bias_and_temperature_counts() -> None:
    """Breaks when a temperature does not divide the biases before it, or divides those after it."""
    _, bias, temperature, _ = parts()
    everything, ones = torch.ones(2, 7, 7, dtype=torch.bool), torch.ones(2, HEADS)
    first = call_with([ScoreBias(bias), Temperature(temperature)], False, 4)
    after = call_with([Temperature(temperature), ScoreBias(bias)], False, 4)
    factor = 1 / temperature.double()
    tensors = (first.query, first.key, first.value, 0.4, everything)
    for call, added in ((first, bias), (after, bias / factor[:, None, None])):
        torch.testing.assert_close(compute(call), by_hand(*tensors, added, factor, ones), rtol=1e-6, atol=1e-7)


def test_a_mask_and_a_bias_in_a_model_equal_its_own_additive_mask() -> None:
    """Breaks when the dispatcher gives a block the terms of another: against the eager kernel."""
    model = make("llama-grouped-untied").double()
    seen, bias, _, _ = parts(12)
    tril = torch.ones(12, 12, dtype=torch.bool).tril()
    model.set_attn_implementation("eager")
    additive = torch.where(seen & tril, bias[0], torch.finfo(torch.float64).min)[:, None]
    expected = model(input_ids=inputs_of(model)["input_ids"], attention_mask=additive).logits
    model.set_attn_implementation("sdpa")
    with modify_attention(model, [SparseMask(seen[:, None]), ScoreBias(bias[0])]):
        found = model(**inputs_of(model)).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # its softmax is in float32


def zero(call: AttentionCall, rows: slice) -> Tensor:
    return torch.zeros(rows.stop - rows.start, call.keys, dtype=call.query.dtype)


@pytest.mark.parametrize("looking", [False, True])
def test_modifiers_that_change_nothing_change_nothing(attending_model: Any, looking: bool) -> None:
    """Breaks when a mask, window, position bias or gradient of the model is lost on the way, in either kernel."""
    model = attending_model.double()
    inputs = inputs_of(model)
    padded = {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
    padded["attention_mask"][0, 8:] = 0
    same = OtherProbabilities(lambda call, rows, probabilities: probabilities)  # needs the kernel in blocks
    for given in (inputs, padded):
        model.zero_grad()
        expected = model(**given).logits
        expected.square().sum().backward()
        wanted = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        with modify_attention(model, [ScoreBias(zero), *([same] if looking else [])]):
            found = model(**given).logits
            found.square().sum().backward()
        real = given["attention_mask"].bool() if given is padded and not model.config.is_encoder_decoder else ...
        # A model that has to compute attention by itself takes its softmax in float32.
        loose = 1.0 if model._supports_sdpa else 1e4
        torch.testing.assert_close(found[real], expected[real], rtol=loose * 1e-9, atol=loose * 1e-11)
        got = [p.grad for p in model.parameters() if p.grad is not None]
        torch.testing.assert_close(got, wanted, rtol=loose * 1e-6, atol=loose * 1e-8)


def test_a_closed_gate_equals_a_removed_head(attending_model: Any) -> None:
    """Breaks when gates reach other heads, other blocks, or come before the values are summed."""
    body = of(attending_model)
    place = Place(body.stacks[-1].name, 1, False)
    output = body.stacks[-1].blocks[1].attention.output
    open_but_one = torch.tensor([1.0, 1.0, 0.0, 1.0])
    with modify_attention(attending_model, [HeadGate(lambda at: open_but_one if at == place else None)]):
        found = attending_model(**inputs_of(attending_model)).logits
    plain = attending_model(**inputs_of(attending_model)).logits
    width = output.shape[1] // HEADS
    weights = output.read().clone()
    weights[:, 2 * width : 3 * width] = 0
    output.write_(weights)
    torch.testing.assert_close(found, attending_model(**inputs_of(attending_model)).logits, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, plain)


def test_places_are_the_blocks_that_call(attending_model: Any) -> None:
    """Breaks when a call is ascribed to another block, stack or kind of attention."""
    seen: list[tuple[Place, Any]] = []

    class Note(Modifier):
        effects: ClassVar[frozenset[Effect]] = frozenset({"factor"})

        def modify(self, call: AttentionCall) -> None:
            seen.append((call.place, call.attention))
            call.scale_scores(1.0)

    body = of(attending_model)
    with modify_attention(body, [Note()]):
        attending_model(**inputs_of(attending_model))
    wanted = [
        (Place(block.kind, block.index, cross), attention)
        for block in body.blocks
        for cross, attention in ((False, block.attention), (True, block.cross_attention))
        if attention is not None
    ]
    assert seen == wanted
    assert str(wanted[-1][0]).endswith("cross_attention" if wanted[-1][0].cross else "attention")


def test_own_probabilities_and_whole_maps() -> None:
    """Breaks when maps are kept before they are replaced, or when knocked-out entries still pass values."""
    model = make("llama").double()
    place = Place("blocks", 1, False)
    maps = AttentionMaps(lambda at: at == place)

    def without_first(call: AttentionCall, rows: slice, probabilities: Tensor) -> Tensor:
        return probabilities * (torch.arange(call.keys) > 0)

    values: list[Tensor] = []
    attention = of(model).blocks[1].attention
    given: list[Tensor] = []
    with (
        torch.no_grad(),
        modify_attention(model, [OtherProbabilities(without_first), maps]),
        tap_outputs(attention.value, values.append),
        tap_inputs(attention.output, given.append),
    ):
        model(**inputs_of(model))
    (kept,) = maps.maps[place]
    assert list(maps.maps) == [place] and kept.shape == (2, 4, 12, 12) and kept.dtype == torch.float64
    assert float(kept[..., 0].abs().max()) == 0 and float(kept.triu(1).abs().max()) == 0
    heads = values[0].view(2, 12, 4, 8).transpose(1, 2)
    torch.testing.assert_close((kept @ heads).transpose(1, 2).reshape(24, 32), given[0])


def softcapped() -> Any:
    torch.manual_seed(0)
    config = Gemma2Config(**{**SIZES, "num_key_value_heads": 2, "head_dim": 8, "attn_logit_softcapping": 2.0})
    return Gemma2ForCausalLM(config).eval()


def with_sinks() -> Any:
    torch.manual_seed(0)
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    config = GptOssConfig(**{**SIZES, "num_key_value_heads": 2, "head_dim": 8, **experts, "pad_token_id": 0})
    model = GptOssForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "sinks" in name:
            parameter.data.normal_()
    return model


@pytest.mark.parametrize("make_model", [softcapped, with_sinks])
def test_soft_caps_and_sinks_are_kept(make_model: Any) -> None:
    """Breaks when a kernel without them is chosen: a call of such a model must equal its eager kernel."""
    model = make_model()
    with use_attention(model, "explicit"):
        assert model.config._attn_implementation == "eager"  # it would lose them
    eager = importlib.import_module(type(model).__module__).eager_attention_forward
    attention = of(make("llama")).blocks[0].attention  # of no importance here
    found: list[Tensor] = []
    expected: list[Tensor] = []

    def both(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **others: Any) -> Any:
        given = {"module": module, "query": query, "key": key, "value": value, "attention_mask": mask, **others}
        found.append(compute(call_of(Place("blocks", 0, False), attention, given)))
        out = eager(module, query, key, value, mask, **others)
        expected.append(out[0])
        return out

    AttentionInterface.register("both", both)
    AttentionMaskInterface.register("both", eager_mask)
    model.set_attn_implementation("both")
    model(**inputs_of(model))
    assert len(found) == len(model.model.layers)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # they normalize in float32


def test_learned_gates_and_biases_get_gradients() -> None:
    """Breaks when a modifier's parameter is detached: gates and biases are trained."""
    model = make("llama")
    gate, bias = torch.ones(4, requires_grad=True), torch.zeros(4, 12, 12, requires_grad=True)
    with modify_attention(model, [HeadGate(gate), ScoreBias(bias)]):
        model(**inputs_of(model)).logits.square().sum().backward()
    assert gate.grad is not None and bool((gate.grad != 0).all())
    assert (
        bias.grad is not None and float(bias.grad.tril().abs().sum()) > 0 and float(bias.grad.triu(1).abs().max()) == 0
    )


def test_watchers_see_no_graph_and_do_not_change_the_kernel() -> None:
    """Breaks when looking keeps every probability for the backward pass: memory would grow with the square of T."""
    model = make("llama").double()
    maps = AttentionMaps()
    expected = model(**inputs_of(model)).logits
    with modify_attention(model, [maps]):
        logits = model(**inputs_of(model)).logits
        assert any("Explicit" in type(node).__name__ for node in _graph(logits.grad_fn))
    assert torch.allclose(logits, expected)
    assert not any(kept.requires_grad for kept in maps.maps[Place("blocks", 0, False)])


def _graph(node: Any) -> list[Any]:
    found, todo = set(), [node]
    while todo:
        at = todo.pop()
        if at is not None and at not in found:
            found.add(at)
            todo += [before for before, _ in at.next_functions]
    return list(found)


def test_the_causal_mask_is_lifted_but_not_padding_or_windows() -> None:
    """Breaks when padding is seen, when a window opens, or when packed documents would see each other."""
    model = make("llama").double()
    inputs = inputs_of(model)
    padding = torch.ones(2, 12, dtype=torch.int64)
    padding[0, 9:] = 0
    padding[1, :2] = 0
    real = padding.bool()
    wanted = model(
        **inputs, attention_mask=(real[:, None, None] | torch.eye(12, dtype=torch.bool)).expand(2, 1, 12, 12)
    ).logits
    with modify_attention(model, [Bidirectional()]):
        found = model(**inputs, attention_mask=padding).logits
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-9, atol=1e-11)

    window = make("mistral").double()  # each block sees 8 back
    places = torch.arange(12)
    near = (places[:, None] - places).abs() < 8
    wanted = window(**inputs, attention_mask=near[None, None].expand(2, 1, 12, 12)).logits
    with modify_attention(window, [Bidirectional()]):
        found = window(**inputs).logits
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)

    documents = torch.tensor([0] * 5 + [1] * 7)
    packed = (documents[:, None] == documents) & torch.ones(12, 12, dtype=torch.bool).tril()
    with pytest.raises(ConfigError, match="cannot be lifted"), modify_attention(model, [Bidirectional()]):
        model(**inputs, attention_mask=packed[None, None].expand(2, 1, 12, 12))
    with pytest.raises(ConfigError, match="Bidirectional changed nothing"):  # noqa: SIM117
        with modify_attention(make("bert"), [Bidirectional()]) as context:
            context.body.model(**inputs)


def test_masks_by_place_follow_the_cache() -> None:
    """Breaks when queries of a cached generation are taken for the first ones: a window must be the same without."""
    model = make("llama")

    def recent(call: AttentionCall, rows: slice) -> Tensor:
        places = torch.arange(rows.start, rows.stop) + call.first
        return places[:, None] - torch.arange(call.keys) < 3

    ids = inputs_of(model, tokens=6)["input_ids"]
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with modify_attention(model, [SparseMask(recent)]):
        cached, plain = (
            model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=cache, **settings)
            for cache in (True, False)
        )
    assert torch.equal(cached, plain)


class OwnKernel(Modifier):
    effects: ClassVar[frozenset[Effect]] = frozenset({"kernel"})
    supports: ClassVar[frozenset[Effect]] = frozenset({"seen", "gate"})

    def modify(self, call: AttentionCall) -> None:
        call.compute_with(lambda call: torch.ones_like(call.query))


def test_what_cannot_be_combined_is_refused_by_name() -> None:
    """Breaks when the second of two that exclude each other silently wins, in one list or in nested contexts."""
    model = make("llama")
    bias = ScoreBias(torch.zeros(1))
    pairs: list[tuple[list[Modifier], str]] = [
        ([Bidirectional(), Bidirectional()], "Bidirectional and Bidirectional .* each replaces the model's mask"),
        ([OwnKernel(), bias], "OwnKernel and ScoreBias .* the kernel of OwnKernel ignores what adds to the scores"),
        ([AttentionMaps(), OwnKernel()], "AttentionMaps and OwnKernel .* looks at the probabilities"),
        ([bias, bias], "ScoreBias and ScoreBias .* twice"),
    ]
    for modifiers, message in pairs:
        with pytest.raises(ConfigError, match=message), modify_attention(model, modifiers):
            pass
        with modify_attention(model, [modifiers[0], HeadGate(torch.ones(4))]):
            with pytest.raises(ConfigError, match=message), modify_attention(model, modifiers[1:]):
                pass
            model(**inputs_of(model))
        assert model.config._attn_implementation == "sdpa"
    assert set(MEANING) > ALONE
    with pytest.raises(ConfigError, match="at least one"):
        modify_attention(model, [])


def test_own_kernels_compute() -> None:
    """Breaks when a modifier's kernel is not called, or when gates are not applied to what it gives."""
    model = make("llama")
    given: list[Tensor] = []
    gate = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with (
        modify_attention(model, [OwnKernel(), HeadGate(gate), SparseMask(torch.ones(1, 1, dtype=torch.bool))]),
        tap_inputs(of(model).blocks[2].attention.output, given.append),
    ):
        model(**inputs_of(model))
    assert torch.equal(given[0], gate.repeat_interleave(8).expand(24, 32))


def test_modifiers_declare_what_they_do() -> None:
    """Breaks when an undeclared effect slips past the check for conflicts."""

    class Quiet(Modifier):
        def modify(self, call: AttentionCall) -> None:
            call.add_bias(torch.zeros(1))

    model = make("llama")
    with pytest.raises(ValueError, match="adds to the scores must name 'bias'"), modify_attention(model, [Quiet()]):
        model(**inputs_of(model))


def test_modifiers_without_effect_are_an_error() -> None:
    """Breaks when a modifier that reached no call passes silently; errors on their way are not hidden."""
    model = make("llama")
    nowhere = ScoreBias(torch.zeros(1), where=lambda place: place.index == 9)
    with (
        pytest.raises(ConfigError, match=r"ScoreBias changed nothing .*\n.*\n.*no call"),
        modify_attention(model, [ScoreBias(torch.zeros(1))]),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"ScoreBias changed nothing .*\n.*\n.*6 calls of other"),
        modify_attention(model, [nowhere, HeadGate(torch.ones(4))]),
    ):
        model(**inputs_of(model))
        model(**inputs_of(model))
    with pytest.raises(KeyError, match="earlier"), modify_attention(model, [nowhere]):
        raise KeyError("earlier")


def test_models_that_compute_attention_themselves_are_refused() -> None:
    """Breaks when some blocks pass the dispatcher by, so that a method is half applied."""
    deberta = DebertaV2ForMaskedLM(
        DebertaV2Config(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    )
    with use_attention(deberta, "explicit"):
        assert deberta.config._attn_implementation == "eager"
    deaf = make("llama")
    deaf.set_attn_implementation = lambda name: None  # what transformers does to such a model
    with (
        pytest.raises(UnsupportedModel, match="cannot be chosen"),
        modify_attention(deaf, [ScoreBias(torch.zeros(1))]),
    ):
        pass
    assert not _BY_MODULE and not _ON_MODEL
    model = make("llama")
    model.model.layers[1].self_attn.forward = lambda hidden_states, **others: (hidden_states, None)
    with (
        pytest.raises(UnsupportedModel, match=r"not modified everywhere\n.*blocks.1.attention\n"),
        modify_attention(model, [ScoreBias(torch.zeros(1))]),
    ):
        model(**inputs_of(model))


def test_wrong_masks_and_scales_are_refused() -> None:
    """Breaks when a query that sees nothing attends to everything, or a gate is broadcast over tokens."""
    model = make("llama")
    blind = torch.ones(12, 12, dtype=torch.bool)
    blind[5] = False
    later = torch.ones(12, 12, dtype=torch.bool).triu(1) | torch.eye(12, dtype=torch.bool)
    later[4, 4] = False  # sees later keys alone, which the model hides
    for modifier, message in (
        (SparseMask(blind), "hide every key from query 5"),
        (SparseMask(later), "hide every key from query 4"),
        (SparseMask(torch.ones(12, 12)), "is torch.float32"),
        (HeadGate(torch.ones(12)), r"needs: \(4,\) or \(2, 4\)"),
        (HeadGate(torch.ones(2, 3, 4)), "wrong shape"),
    ):
        with (
            pytest.raises(ConfigError, match=message.replace("needs: ", "needs: +")),
            modify_attention(model, [modifier]),
        ):
            model(**inputs_of(model))
    with pytest.raises(ConfigError, match="must be positive"):
        Temperature(torch.tensor([1.0, 0.0]))


def test_contexts_nest_and_close_in_any_order() -> None:
    """Breaks when an inner context ends the outer one, or the kernel that was chosen before is lost."""
    model = make("llama").double()
    inputs = inputs_of(model)
    _, bias, temperature, _ = parts(12)
    with modify_attention(model, [ScoreBias(bias), Temperature(temperature)]):
        expected = model(**inputs).logits
    chosen = use_attention(model, "explicit")
    outer = modify_attention(model, [ScoreBias(bias)])
    inner = modify_attention(model, [Temperature(temperature)])
    outer.__enter__()
    inner.__enter__()
    torch.testing.assert_close(model(**inputs).logits, expected)
    chosen.__exit__(None, None, None)  # counts from the end of the modifiers on
    assert model.config._attn_implementation == NAME
    torch.testing.assert_close(model(**inputs).logits, expected)
    outer.__exit__(None, None, None)
    with modify_attention(model, [AttentionMaps()]):
        only_inner = model(**inputs).logits
    inner.__exit__(None, None, None)
    with modify_attention(model, [Temperature(temperature)]):
        torch.testing.assert_close(model(**inputs).logits, only_inner)
        use_attention(model, "explicit")
    assert model.config._attn_implementation == EXPLICIT


def test_nothing_is_left_on_the_model() -> None:
    """Breaks when hooks, names or references outlive the block, also after an error."""
    model = make("t5")
    model(**inputs_of(model))
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    modifier = ScoreBias(torch.zeros(1), where=own)
    for error in (False, True):
        with pytest.raises(KeyError), modify_attention(model, [modifier]):
            if not error:
                model(**inputs_of(model))
            raise KeyError
    assert model.config._attn_implementation == "sdpa"
    assert {m.config._attn_implementation for m in (model.encoder, model.decoder)} == {"sdpa"}
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert not _BY_MODULE and not _ON_MODEL
    references = [weakref.ref(model), weakref.ref(modifier)]
    del model, modifier
    gc.collect()
    assert all(reference() is None for reference in references)


def test_towers_of_one_model_are_apart() -> None:
    """Breaks when modifiers of one tower act in the other, are refused for its sake, or find no places there."""
    model = make("clip")
    text, image = (towers(model)[name] for name in ("clip-text", "clip-vision"))
    inputs = example_inputs(text)
    maps, others = [AttentionMaps(), Bidirectional()], [AttentionMaps(), Lifted()]
    plain = model(**inputs)
    with torch.no_grad(), modify_attention(text, maps), modify_attention(image, others):
        changed = model(**inputs)
        with pytest.raises(ConfigError, match="Lifted and Bidirectional cannot be combined"):
            modify_attention(image, [Bidirectional()]).__enter__()
    shapes = [{m.shape[1:] for seen in each[0].maps.values() for m in seen} for each in (maps, others)]
    assert shapes == [{(HEADS, 12, 12)}, {(HEADS, 17, 17)}]
    torch.testing.assert_close(changed.image_embeds, plain.image_embeds)
    assert not torch.allclose(changed.text_embeds, plain.text_embeds)
    assert not _BY_MODULE and not _ON_MODEL


class Lifted(Modifier):
    """Sees everything, as image encoders do anyway."""

    effects: ClassVar[frozenset[Effect]] = frozenset({"mask"})

    def modify(self, call: AttentionCall) -> None:
        call.replace_mask(None)

"""The anatomy sees every part, and what it derives equals what the model has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertModel, LlamaModel, PersimmonConfig, PersimmonForCausalLM

from pomona import anatomy
from pomona.anatomy.taps import hidden_of
from pomona.ground.errors import ConfigError, UnsupportedModel

from .conftest import CAUSAL, inputs_of, make


def test_logits_of_hidden_equal_the_models(any_model: Any) -> None:
    """Breaks when the body is not what the head reads, or when a transform, scale or bias is left out."""
    body, inputs = anatomy.of(any_model), inputs_of(any_model)
    with torch.no_grad():
        expected = any_model(**inputs).logits
        hidden = body.hidden(**inputs)
        assert torch.equal(body.logits(hidden), expected)
        linear = body.head_weight()
        assert (linear is None) == body.has_transform
        if linear is not None:
            torch.testing.assert_close(nn.functional.linear(hidden, *linear), expected)


def test_every_parameter_is_seen(any_model: Any) -> None:
    """Breaks when a declaration forgets a part: a bias, a norm of queries, a table of token types."""
    body = anatomy.of(any_model)
    assert body.unseen == []
    parts = {p.key: p.numel() for p in body.parts()}
    assert sum(parts.values()) == any_model.num_parameters() == body.parameter_count()


def test_reference_model_counts() -> None:
    """Breaks when FLOPs or parameters are counted by another rule than the reference figures."""
    with torch.device("meta"):
        model = make(
            "llama",
            hidden_size=256,
            num_hidden_layers=6,
            intermediate_size=704,
            vocab_size=4096,
            max_position_embeddings=256,
        )
    body = anatomy.of(model)
    norms = 13 * 256
    assert body.parameter_count() == 5_865_472 + norms
    assert body.parameter_count(non_embedding=True) == 5_865_472 - 4096 * 256 + norms
    assert body.flops_per_token(256) == 37_552_128.0
    assert body.flops_per_token(256, training=False) == pytest.approx(37_552_128.0 / 3)


def test_flops_equal_the_counted_ones(single_model: Any) -> None:
    """Breaks when a linear map is missing from the count: torch counts the executed products."""
    from torch.utils.flop_counter import FlopCounterMode

    body, tokens = anatomy.of(single_model), 12
    single_model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        single_model(**inputs_of(single_model, batch=2, tokens=tokens))
    executed = counter.get_total_flops() / (2 * tokens)
    masked = 0.0
    for block in body.blocks:  # the mask does not save the executed kernel anything
        attention = block.attention
        window = min(attention.window or tokens, tokens)
        seen = window - window * window / (2 * tokens)
        if not attention.causal:
            seen = sum(attention.sees(query, key) for query in range(tokens) for key in range(tokens)) / tokens
        width = attention.num_heads * (attention.head_dim.size + attention.value_dim.size)
        masked += 2 * width * (tokens - seen)
    assert body.flops_per_token(tokens, training=False) + masked == pytest.approx(executed, rel=1e-12)


def test_flops_of_encoder_decoder_equal_the_counted_ones() -> None:
    """Breaks when cross attention or one of the stacks is counted with the other's length."""
    from torch.utils.flop_counter import FlopCounterMode

    model = make("t5")
    model.set_attn_implementation("eager")
    body, inputs = anatomy.of(model), inputs_of(model, batch=2, tokens=12)
    targets = inputs["decoder_input_ids"].shape[1]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    unmasked = 0.0
    for block in body.stacks[1].blocks:
        width = block.attention.num_heads * block.attention.head_dim.size
        unmasked += 2 * targets * 4 * width * (targets / 2)
    counted = 2 * 12 * body.flops_per_token(12, training=False, target_length=targets)
    assert counted + unmasked == pytest.approx(counter.get_total_flops(), rel=1e-12)


@pytest.mark.parametrize("name", CAUSAL)
def test_cache_bytes_equal_the_caches(name: str) -> None:
    """Breaks when grouped heads, head sizes or windows are counted wrongly."""
    model = make(name)
    with torch.no_grad():
        cache = model(**inputs_of(model, batch=3, tokens=11), use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert anatomy.of(model).kv_cache_bytes(11, batch=3) == held


def test_weights_read_and_write_in_canonical_orientation(any_model: Any) -> None:
    """Breaks when a stored layout (transposed, fused) is not undone: the linear map is executed and compared."""
    body = anatomy.of(any_model)
    for block in body.blocks:
        for weight in block.weights():
            outputs, inputs = weight.shape
            if not weight.routed:
                x = torch.randn(5, inputs)
                expected = hidden_of(weight.owner(x))[:, slice(None) if weight.rows is None else weight.rows]
                torch.testing.assert_close(nn.functional.linear(x, weight.read(), weight.bias_read()), expected)
            before = weight.parameter.detach().clone()
            fresh = torch.randn(outputs, inputs, dtype=torch.float64)
            weight.write_(fresh)
            torch.testing.assert_close(weight.read(), fresh.float())
            changed = int((weight.parameter != before).sum())
            assert changed == weight.numel(), "a write touched its neighbours, or not all of its own entries"
            with pytest.raises(ValueError, match="shape"):
                weight.write_(fresh[:-1])


def test_matrices_come_once() -> None:
    """Breaks when fused projections are handed to an optimizer three times, or under names that do not exist."""
    model = make("gpt2")
    body = anatomy.of(model)
    names = [name for name, _ in body.matrices()]
    assert len(names) == 3 * 4 and len(set(names)) == len(names)
    for name, parameter in body.matrices():
        assert model.get_parameter(name) is parameter
    assert len(body.weights()) == 3 * 6


def test_ties_and_capabilities() -> None:
    """Breaks when a tied head counts as untied, grouped heads as plain, or a window is not noticed."""
    tied, untied = anatomy.of(make("llama")), anatomy.of(make("llama-grouped-untied"))
    assert tied.ties == [("model.embed_tokens.weight", "lm_head.weight")] and untied.ties == []
    assert {"tied_head", "pre_norm", "rmsnorm", "gated_ffn", "rotary", "causal"} <= tied.capabilities
    assert "grouped_query" not in tied.capabilities
    assert {"untied_head", "grouped_query"} <= untied.capabilities
    bert = anatomy.of(make("bert")).capabilities
    assert {"post_norm", "layernorm", "bidirectional", "learned_positions", "plain_ffn", "head"} <= bert
    assert "linear_head" not in bert
    assert {"query_key_norm", "sliding_window"} <= anatomy.of(make("qwen3")).capabilities
    assert [b.attention.window for b in anatomy.of(make("qwen3")).blocks] == [None, 6, None]


def test_models_without_a_head() -> None:
    """Breaks when the path of the body is taken for granted, or when a headless model gives logits."""
    model = make("llama")
    bare = LlamaModel(model.config).eval()
    bare.load_state_dict(model.model.state_dict())
    body, inputs = anatomy.of(bare), inputs_of(model)
    assert body.head is None and body.blocks[0].attention.query.name == "layers.0.self_attn.q_proj.weight"
    assert torch.equal(body.hidden(**inputs), anatomy.of(model).hidden(**inputs))
    with pytest.raises(UnsupportedModel, match="maps hidden states to logits"):
        body.logits(torch.zeros(1, 1, 32))
    pooler = anatomy.of(BertModel(make("bert").config)).around["pooler"]
    assert str(pooler.weights()[0].axes[0]) == "pooled"


def test_refusals_say_what_is_missing_and_what_works() -> None:
    """Breaks when a method runs on a model that lacks what it needs, or when the refusal gives no way out."""
    body = anatomy.of(make("bert"))
    body.require("post_norm", "head", method="m")
    with pytest.raises(UnsupportedModel) as caught:
        body.require("pre_norm", "rmsnorm", method="g-stack")
    assert "g-stack cannot run on BertForMaskedLM" in str(caught.value)
    assert "norms before attention" in str(caught.value.needs)
    assert caught.value.where == "bert.encoder.layer.0.attention.output.LayerNorm.weight"
    assert "llama" in str(caught.value.do) and "bert" not in str(caught.value.do)
    with pytest.raises(ConfigError, match="pre_norm"):
        body.require("prenorm", method="m")


def test_unknown_models_are_refused_with_a_remedy() -> None:
    """Breaks when an unknown family is guessed at."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    stranger = PersimmonForCausalLM(PersimmonConfig(vocab_size=64, **sizes))
    with pytest.raises(UnsupportedModel, match=r"persimmon.*(\n.*)*register"):
        anatomy.of(stranger)
    with pytest.raises(UnsupportedModel, match="does not fit the shape 'llama'"):
        anatomy.of(stranger, shape="llama")
    with pytest.raises(UnsupportedModel, match="PreTrainedModel"):
        anatomy.of(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="did you mean 'llama'"):
        anatomy.of(stranger, shape="lama")


def test_a_fitting_shape_is_proposed_not_assumed() -> None:
    """Breaks when equal module names are taken for equal mathematics (multipliers, other norms)."""
    from transformers import StableLmConfig, StableLmForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    stranger = StableLmForCausalLM(StableLmConfig(vocab_size=64, num_key_value_heads=2, **sizes))
    with pytest.raises(UnsupportedModel, match=r"modules fit the shape '\w+': prove it"):
        anatomy.of(stranger)


def test_registration_takes_precedence() -> None:
    """Breaks when a user's declaration is not found, or when it cannot be taken back."""
    from dataclasses import replace

    from pomona.anatomy.registry import shape_named, shape_of, unregister

    own = replace(shape_named("llama"), name="mine")
    anatomy.register(own)
    try:
        assert anatomy.of(make("llama")).shape.name == "mine"
    finally:
        unregister("mine")
    assert shape_of("llama") is shape_named("llama")


def test_sizes_that_do_not_fit_are_refused() -> None:
    """Breaks when the configuration and the tensors may disagree."""
    model = make("llama")
    model.config.hidden_size = 64
    with pytest.raises(UnsupportedModel, match="does not fit"):
        anatomy.of(model)


@pytest.mark.parametrize(
    ("name", "own", "parameters"),
    [
        ("llama", {"num_key_value_heads": 32, "intermediate_size": 11008}, 6_738_415_616),
        ("mixtral", {"num_key_value_heads": 8, "intermediate_size": 14336, "num_local_experts": 8}, 46_702_792_704),
    ],
)
def test_views_are_found_fast_on_the_meta_device(name: str, own: dict[str, Any], parameters: int) -> None:
    """Breaks when looking at a model reads its numbers, or makes a view of every expert: a 7B shape has none here."""
    import time

    sizes = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}
    with torch.device("meta"):
        model = make(name, **sizes, **own, tie_word_embeddings=False)
    start = time.perf_counter()
    body = anatomy.of(model)
    assert time.perf_counter() - start < 1.0
    assert body.parameter_count() == parameters

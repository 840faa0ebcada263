"""The explicit kernel computes what the fused one does: outputs and gradients, under every kind of mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pomona.anatomy import explicit, of, use_attention
from pomona.anatomy.attention import EXPLICIT, additive, attend
from pomona.ground.errors import ConfigError

from .conftest import inputs_of, make


class Module(nn.Module):
    is_causal = True


def tensors(queries: int, keys: int, heads: int = 4, kv_heads: int = 4, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    shapes = [(2, heads, queries, 8), (2, kv_heads, keys, 8), (2, kv_heads, keys, 8)]
    return [(2 * torch.randn(shape, dtype=dtype)).requires_grad_() for shape in shapes]


def slow(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, bias: Tensor | None, scaling: float) -> Tensor:
    """One query after another, from the definition."""
    groups = query.shape[1] // key.shape[1]
    out = torch.zeros(*query.shape[:3], value.shape[-1], dtype=query.dtype)
    for b in range(query.shape[0]):
        for n in range(query.shape[1]):
            for t in range(query.shape[2]):
                scores = key[b, n // groups] @ query[b, n, t] * scaling
                if bias is not None:
                    scores = scores + bias[0, n, t]
                if seen is not None:
                    scores = scores.masked_fill(~seen[b, 0, t], -torch.inf)
                out[b, n, t] = torch.softmax(scores, -1) @ value[b, n // groups]
    return out.transpose(1, 2)


def packed(tokens: int) -> Tensor:
    """(2, 1, T, T) bool: causal within documents that end at different places in the two rows."""
    documents = torch.stack([torch.arange(tokens) // 5, (torch.arange(tokens) + 2) // 7])
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & torch.ones(tokens, tokens, dtype=torch.bool).tril()


def compare(ours: Tensor, theirs: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    weights = torch.randn_like(theirs)
    mine = torch.autograd.grad((ours * weights).sum(), inputs, retain_graph=True)
    wanted = torch.autograd.grad((theirs * weights).sum(), inputs, retain_graph=True)
    torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("kind", ["causal", "all", "packed", "packed-float"])
def test_outputs_and_gradients_equal_the_definition(kind: str, kv_heads: int) -> None:
    """Breaks when a scale, a mask, a repeated head or a term of the backward pass is wrong."""
    tokens = 13
    inputs = tensors(tokens, tokens, kv_heads=kv_heads)
    seen = {"causal": torch.ones(tokens, tokens, dtype=torch.bool).tril().expand(2, 1, -1, -1), "all": None}.get(
        kind, packed(tokens)
    )
    given = None if kind in ("causal", "all") else seen
    if kind == "packed-float" and seen is not None:
        given = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    ours, _ = attend(Module(), *inputs, given, scaling=0.3, is_causal=kind != "all")
    compare(ours, slow(*inputs, seen, None, 0.3), inputs)


@pytest.mark.parametrize(("queries", "keys"), [(20, 20), (9, 20)])
def test_blocks_of_queries_do_not_show(monkeypatch: pytest.MonkeyPatch, queries: int, keys: int) -> None:
    """Breaks when a block sees one key too many or few, or when sums over blocks go to the wrong keys."""
    inputs = tensors(queries, keys)
    whole = explicit.explicit_attention(*inputs, causal=True, scaling=0.4)
    monkeypatch.setattr(explicit, "QUERIES_AT_ONCE", 6)
    compare(explicit.explicit_attention(*inputs, causal=True, scaling=0.4), whole, inputs)
    mask = torch.randn(2, 1, queries, keys, dtype=torch.float64)
    blocked = explicit.explicit_attention(*inputs, mask, scaling=0.4)
    monkeypatch.undo()
    compare(explicit.explicit_attention(*inputs, mask, scaling=0.4), blocked, inputs)


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 2.0**-24), (torch.bfloat16, 2.0**-9)])
def test_rounds_as_much_as_the_scores_do(dtype: torch.dtype, unit: float) -> None:
    """Breaks when softmax or sums lose more than the rounding of the scores; 300 tokens cross a block of queries."""
    inputs = [x.detach() for x in tensors(300, 300, dtype=dtype)]
    ours, _ = attend(Module(), *inputs, None)
    assert ours.dtype == dtype
    query, key, value = (x.double() for x in inputs)
    exact = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    largest = float((query @ key.transpose(2, 3)).abs().max()) * 8**-0.5
    # A score off by e multiplies a probability by exp(e) at most, and so do the others: 2 e of the largest value.
    bound = (2 * largest + 8) * unit * float(value.abs().max())
    assert (ours.double() - exact).abs().max() < bound


def test_an_empty_static_cache_is_not_seen() -> None:
    """Breaks when queries see the unfilled places of a longer cache: without a mask they see the first keys only."""
    inputs = tensors(5, 9)
    expected, _ = sdpa_attention_forward(Module(), *inputs, None)
    compare(attend(Module(), *inputs, None)[0], expected, inputs)


def test_position_bias_and_its_gradient() -> None:
    """Breaks when a learned score bias is dropped, added twice, or gets no gradient; causal and not."""
    tokens = 9
    bias = torch.randn(1, 4, tokens, tokens, dtype=torch.float64, requires_grad=True)
    inputs = tensors(tokens, tokens)
    for causal in (True, False):
        seen = torch.ones(tokens, tokens, dtype=torch.bool).tril().expand(2, 1, -1, -1) if causal else None
        ours, _ = attend(Module(), *inputs, None, scaling=1.0, is_causal=causal, position_bias=bias)
        compare(ours, slow(*inputs, seen, bias, 1.0), [*inputs, bias])


def test_dropout_only_in_training() -> None:
    """Breaks when dropout acts in evaluation, or is not rescaled: the mean over many draws is the plain output."""
    inputs = [x.detach() for x in tensors(6, 6, dtype=torch.float32)]
    module = Module()
    plain, _ = attend(module.eval(), *inputs, None, dropout=0.5)
    torch.testing.assert_close(plain, attend(module, *inputs, None)[0])
    module.train()
    draws = torch.stack([attend(module, *inputs, None, dropout=0.2)[0] for _ in range(4000)])
    assert not torch.equal(draws[0], draws[1])
    assert (draws.mean(0) - plain).abs().max() < 6 * float(draws.std(0).max()) / 4000**0.5


def test_a_query_that_sees_nothing_gives_no_nan() -> None:
    """Breaks when masks hold -inf: a left-padded row would poison the batch."""
    seen = torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    seen[1] = True
    for given in (seen, torch.zeros(2, 1, 5, 5).masked_fill(~seen, torch.finfo(torch.float32).min)):
        for dtype in (torch.float32, torch.bfloat16):
            out, _ = attend(Module(), *tensors(5, 5, dtype=dtype), given)
            assert torch.isfinite(out).all()
    assert additive(torch.full((1,), -torch.inf), torch.zeros(1, dtype=torch.bfloat16)).isfinite().all()


def test_models_compute_the_same_through_it(any_model: Any) -> None:
    """Breaks when a custom kernel name gets no mask, or another mask: padding, windows, encoders, cross attention."""
    model = any_model.double()
    inputs, before = inputs_of(model), model.config._attn_implementation
    padded = {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
    padded["attention_mask"][0, 8:] = 0
    for given in (inputs, padded):
        model.zero_grad()
        expected = model(**given).logits
        expected.square().sum().backward()
        wanted = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        with use_attention(model, "explicit"):
            assert model.config._attn_implementation == (EXPLICIT if model._supports_sdpa else "eager")
            ours = model(**given).logits
            ours.square().sum().backward()
        assert model.config._attn_implementation == before
        real = (
            given["attention_mask"].bool() if "attention_mask" in given and not model.config.is_encoder_decoder else ...
        )
        torch.testing.assert_close(ours[real], expected[real], rtol=1e-9, atol=1e-11)
        found = [p.grad for p in model.parameters() if p.grad is not None]
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_packed_documents_do_not_see_each_other() -> None:
    """Breaks when a 4-D mask is ignored: each document must get the logits that it gets alone."""
    model = make("llama").double()
    use_attention(model, "explicit")
    ids = inputs_of(model, batch=1)["input_ids"]
    documents = torch.tensor([0] * 5 + [1] * 7)
    seen = (documents[:, None] == documents) & torch.ones(12, 12, dtype=torch.bool).tril()
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    together = model(input_ids=ids, attention_mask=seen[None, None], position_ids=positions).logits
    apart = torch.cat([model(input_ids=ids[:, :5]).logits, model(input_ids=ids[:, 5:]).logits], 1)
    torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-12)


def test_autocast_rounds_the_inputs_and_gives_gradients_in_their_dtype() -> None:
    """Breaks when float32 queries meet bf16 values, or when the backward pass runs in float32 products."""
    model = make("llama")
    use_attention(model, "explicit")
    inputs = inputs_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**inputs).logits
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(logits.float(), make("llama")(**inputs).logits, rtol=0.05, atol=0.01)


def test_generation_with_cache_equals_without(causal_model: Any) -> None:
    """Breaks when a query in the middle of a cache sees too few keys."""
    use_attention(causal_model, "explicit")
    ids = inputs_of(causal_model, batch=2, tokens=6)["input_ids"]
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = causal_model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=True, **settings)
    plain = causal_model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **settings)
    assert torch.equal(cached, plain)


def test_saved_models_do_not_know_the_kernel(tmp_path: Any) -> None:
    """Breaks when the folder names a kernel that transformers alone does not have."""
    model = make("llama")
    use_attention(model, "explicit")
    model.save_pretrained(tmp_path)
    assert EXPLICIT not in (tmp_path / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path)._attn_implementation is None
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_unknown_kernels_are_refused() -> None:
    """Breaks when a typing error falls back to some kernel."""
    with pytest.raises(ConfigError, match="did you mean 'explicit'"):
        use_attention(make("llama"), "explict")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch._dynamo does it itself
def test_one_graph_without_breaks() -> None:
    """Breaks when kernel or body leave the graph under torch.compile; values and gradients stay the same."""
    model = make("llama", num_hidden_layers=1).double()
    body, inputs = of(model), inputs_of(model)
    use_attention(model, "explicit")

    def loss(ids: Tensor) -> Tensor:
        return body.logits(body.hidden(input_ids=ids)).square().mean()

    loss(inputs["input_ids"]).backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    compiled(inputs["input_ids"]).backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], wanted)

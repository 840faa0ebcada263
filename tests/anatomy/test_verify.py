"""Every shape passes every probe, and every kind of lie in a declaration is caught by one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.anatomy import probes
from pomona.anatomy.declaration import Fused, Shape
from pomona.anatomy.permute import derangement
from pomona.anatomy.registry import known_shapes, shape_named
from pomona.anatomy.space import Axis, Space
from pomona.anatomy.tiny import TINY
from pomona.ground.errors import UnsupportedModel

from .conftest import inputs_of, make

SILENT = {
    "clip_vision_model": {"pooled_norm.gain", "pooled_norm.bias"},
    **{name: {"mask_token"} for name in ("dinov2", "dinov2_with_registers", "hubert", "wav2vec2")},
    **{name: {"contacts", "contacts.bias"} for name in ("esm", "esm-normed", "esm-learned")},
}
"""Parts of models that take no part in what these classes answer: they serve masked training, pooling, contacts."""


@cache
def verified(name: str) -> anatomy.Verification:
    """What the probes find out about a tiny model, which they leave as it is."""
    model = make(name)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    found = anatomy.verify(model)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    return found


@pytest.mark.parametrize("name", TINY)
def test_every_tiny_model_is_what_its_shape_says(name: str) -> None:
    """Breaks when any annotation of any shape is wrong or missing, or a probe becomes vacuous."""
    model, found = make(name), verified(name)
    found.require()
    assert found.passed and len(found.checks) > 50
    # The bias of keys that no position turns adds the same to all scores of a query: a true invariance.
    attentions = [block.attention for body in anatomy.towers(model).values() for block in body.blocks]
    biased = any(a.key.bias is not None and not a.rotary and not a.position_kinds for a in attentions)
    apart = any(a.position_key is not None for a in attentions)
    free = SILENT.get(name, set()) | ({"attention.key.bias"} if biased else set())
    free |= {"attention.position_key.bias"} if apart else set()
    silent = [check for check in found.checks if "no effect" in check.found]
    assert {check.part.split("(")[-1].rstrip(")") for check in silent} - {"cross_attention.key.bias"} == free


def test_the_page_of_families_says_what_was_proven() -> None:
    """Breaks when a shape, a capability or an exception changes and nobody ran `make docs`."""
    from docs import families, generate

    page = (generate.ROOT / "docs/families.md").read_text(encoding="utf-8")
    assert page == families.page({name: verified(name) for name in TINY}), "out of date; run `make docs`"


def test_every_known_type_has_a_tiny_model() -> None:
    """Breaks when a type is added to a shape without being tried."""
    assert {t for shape in known_shapes().values() for t in shape.model_types} == {t.model_type for t in TINY.values()}


def lie(name: str, **changes: Any) -> Shape:
    """The declaration of a shape with something changed in attention, feed-forward or block."""
    shape = shape_named(name)
    stack = shape.stacks[0]
    block = stack.block
    for part in ("attention", "ffn"):
        own = {key: value for key, value in changes.items() if hasattr(getattr(block, part), key)}
        block = replace(block, **{part: replace(getattr(block, part), **own)})
    block = replace(block, **{key: value for key, value in changes.items() if key in ("placement", "norm", "norm_ffn")})
    stack = replace(stack, block=block, **{k: v for k, v in changes.items() if k in ("causal", "tables")})
    return replace(shape, stacks=(stack,))


LIES = {
    "query and key swapped": ("llama", {"query": "self_attn.k_proj", "key": "self_attn.q_proj"}, "roles"),
    "key and value swapped": ("llama", {"key": "self_attn.v_proj", "value": "self_attn.k_proj"}, "roles"),
    "up and gate swapped": ("llama", {"up": "mlp.gate_proj", "gate": "mlp.up_proj"}, "roles"),
    "fused in another order": (
        "gpt2",
        {part: Fused("attn.c_attn", part, ("key", "query", "value")) for part in ("query", "key", "value")},
        "roles",
    ),
    "post-norm taken for pre-norm": ("bert", {"placement": "pre"}, "placement"),
    "pre-norm taken for post-norm": ("gpt2", {"placement": "post"}, "placement"),
    "LayerNorm taken for RMSNorm": ("gpt2", {"norm": "rms"}, "norms"),
    "one norm taken for another": ("bert", {"norm_ffn": "attention.output.LayerNorm"}, "placement"),
    "an encoder taken for a decoder": ("bert", {"causal": True}, "roles"),
    "a decoder taken for an encoder": ("gpt2", {"causal": False}, "roles"),
    "a table forgotten": ("bert", {"tables": ()}, "unseen"),
    "norms of queries forgotten": ("qwen3", {"query_norm": None}, "unseen"),
    "a gate forgotten": ("llama", {"gate": None}, "unseen"),
}


@pytest.mark.parametrize("name", list(LIES))
def test_lies_are_caught(name: str) -> None:
    """Breaks when a probe stops to see the kind of mistake that it was made for."""
    family, changes, probe = LIES[name]
    found = anatomy.verify(make(family), shape=lie("llama" if family == "qwen3" else family, **changes))
    assert probe in {check.probe for check in found.failures}, str(found)
    with pytest.raises(UnsupportedModel, match="does not describe"):
        found.require()


@pytest.mark.parametrize(
    ("option", "probe"),
    [
        ("logits_scaling", "forward"),
        ("residual_multiplier", "placement"),
        ("embedding_multiplier", "embedding"),
        ("attention_multiplier", "scores"),
    ],
)
def test_equal_names_with_other_mathematics_are_caught(option: str, probe: str) -> None:
    """Breaks when a model that binds but multiplies somewhere passes for the shape that it resembles."""
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    plain = {"vocab_size": 64, "num_key_value_heads": 2, "attention_multiplier": 0.25}
    granite = GraniteForCausalLM(GraniteConfig(**sizes, **{**plain, option: 0.5}))
    assert {check.probe for check in anatomy.verify(granite, shape="llama").failures} == {probe}


def test_rotary_features_may_not_be_permuted() -> None:
    """Breaks when features that turn in pairs are taken for interchangeable: the probe would fail, the edit must."""
    body = probes.enlarged_copy(make("llama"))
    space = body.blocks[0].attention.head_dim
    with pytest.raises(UnsupportedModel, match="cannot be permuted"):
        anatomy.permute_(body, space, torch.arange(8).roll(1))
    posing = probes.enlarged_copy(make("llama"), replace(shape_named("llama"), positions="learned"))
    failed = [check for check in probes.probe_spaces(posing) if not check.passed]
    assert failed and all("head_dim" in check.part for check in failed)


def test_permutations_are_checked() -> None:
    """Breaks when a list that is no permutation, or mixes groups of heads, is applied."""
    model = make("qwen2")
    body, inputs = anatomy.of(model), inputs_of(model)
    attention = body.blocks[0].attention
    with pytest.raises(ValueError, match="not a permutation"):
        anatomy.permute_(body, body.residual, torch.zeros(32, dtype=torch.int64))
    with pytest.raises(ValueError, match="between those of kv_head"):
        anatomy.permute_(body, attention.heads, torch.tensor([2, 1, 0, 3]))
    expected = model(**inputs).logits
    anatomy.permute_(body, attention.heads, torch.tensor([1, 0, 2, 3]))
    anatomy.permute_(body, attention.kv_heads, torch.tensor([1, 0]))
    torch.testing.assert_close(model(**inputs).logits, expected)


def test_axes_by_hand() -> None:
    """Breaks when a coordinate of a product axis is put in another place: two kv heads of two heads of three."""
    kv = Space("kv_head", 2, "a")
    heads, width = Space("head", 4, "a", parent=kv), Space("head_dim", 3, "a")
    axis = Axis((heads, width))
    assert axis.size == 12 and axis.name == "head*head_dim" and axis.has(kv) and not axis.has(Space("kv_head", 2, "b"))
    assert axis.indices(kv, torch.tensor([1, 0])).tolist() == [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]
    assert axis.indices(heads, torch.tensor([1, 0, 2, 3])).tolist() == [3, 4, 5, 0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert axis.indices(width, torch.tensor([2, 0])).tolist() == [2, 0, 5, 3, 8, 6, 11, 9]
    assert axis.owners(kv).tolist() == [0] * 6 + [1] * 6 and axis.owners(width).tolist() == [0, 1, 2] * 4
    joined = Axis((kv, width), joined=True)
    assert joined.size == 5 and joined.name == "kv_head+head_dim"
    assert joined.indices(width, torch.tensor([2, 0])).tolist() == [0, 1, 4, 2]
    generator = torch.Generator().manual_seed(0)
    for space in (Space("residual", 7), heads, Space("head", 2)):
        order = derangement(space, generator)
        assert order is not None and not bool((order == torch.arange(space.size)).any())
    assert derangement(Space("head", 1), generator) is None

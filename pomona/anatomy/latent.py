"""The same decoder with latent attention: of the class whose keys and values are made of a latent.

Everything but queries, keys and values is copied. The class loads in any transformers that knows it; no code is stored.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pomona.anatomy.block import Block
from pomona.anatomy.body import Anatomy, of
from pomona.anatomy.weight import Weight
from pomona.ground.errors import UnsupportedModel

NEEDS = (
    *("causal", "single_stack", "linear_head", "pre_norm", "rmsnorm"),
    *("gated_ffn", "dense_ffn", "rotary", "direct_attention"),
)
"""What a decoder must have to be of the class but for its attention."""
FREQUENCY_ONLY = ("default", "linear", "llama3")
"""Kinds of rotary positions in which the angle of a pair follows from its own frequency alone."""
COPIED = ("bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout", "initializer_range", "use_cache")


@dataclass(frozen=True)
class LatentSizes:
    """Sizes of latent attention.

    Args:
        rank: features of the latent of keys and values.
        query_rank: features of the latent of queries; None: queries are made of hidden states.
        turned: how many features of a head turn with the position; even, and at most all.
        theta: base of their frequencies, theta ** (-2 i / turned) for pair i.
    """

    rank: int
    query_rank: int | None
    turned: int
    theta: float


def require_twin(body: Anatomy, method: str) -> None:
    """Refuse a model that is not the class of latent attention but for queries, keys and values."""
    body.require(*NEEDS, method=method)
    found = next(_hindrances(body), None)
    if found is not None:
        raise UnsupportedModel(
            f"{method} cannot run on {type(body.model).__name__} (nothing was changed)",
            needs="a decoder that differs from the class of latent attention in queries, keys and values alone",
            found=found,
            do="choose a model like Llama: equal blocks, whole heads turned; no windows, caps, factors or other norms",
        )


def _hindrances(body: Anatomy) -> Iterator[str]:
    blocks, attentions = body.blocks, body.attentions()
    heads = {(a.num_heads, a.num_kv_heads, a.head_dim.size) for a in attentions}
    kind = rotary_of(body).get("rope_type", "default")
    biased = [w for b in blocks for w in b.ffn.wholes() if w.bias is not None]
    for held, reason in (
        (len(heads) > 1 or len({b.ffn.width for b in blocks}) > 1, "blocks of different sizes"),
        ("sliding_window" in body.capabilities, "attention to a window"),
        ("softcap" in body.capabilities, "capped scores"),
        ("query_key_norm" in body.capabilities, "norms of queries and keys, which no linear map of a latent gives"),
        (any(a.rotary != a.head_dim.size for a in attentions), "heads that do not turn as a whole, or in every block"),
        (kind not in FREQUENCY_ONLY, f"rotary positions of the kind {kind!r}"),
        (bool(biased), f"a bias in {biased[0].name}" if biased else ""),
        (len({norm.epsilon for b in blocks for norm in b.norms()}) > 1, "norms with different epsilons"),
        (body.embedding is None or body.embedding_scale != 1.0, "a factor of the embeddings"),
        (body.head_scales != (1.0, 1.0), "factors before or after the head"),
        (any(b.branch_scale != 1.0 for b in blocks), "a factor of what a block adds"),
        (body.final_norm is None or bool(body.around), "other parts around the blocks"),
        (_activation(body) is None, "no activation in the configuration"),
    ):
        if held:
            yield reason


def rotary_of(body: Anatomy) -> dict[str, Any]:
    """How the model's configuration describes its rotary positions."""
    return dict(getattr(body.config, "rope_parameters", None) or {})


def _activation(body: Anatomy) -> str | None:
    """Name of the activation of the feed-forwards."""
    for name in ("hidden_activation", "hidden_act"):
        value = getattr(body.config, name, None)
        if isinstance(value, str):
            return value
    return None


@torch.no_grad()
def twin(body: Anatomy, sizes: LatentSizes, seed: int = 0) -> Anatomy:
    """A new model of the class of latent attention, of which all but queries, keys and values are those of `body`.

    Those are as the class initialises them. Values stay on the meta device where the model has none.

    Args:
        body: a model that `require_twin` lets pass.
        seed: of the initialisation.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    model, first, norm = body.model, body.blocks[0], body.final_norm
    assert norm is not None and body.vocabulary is not None
    attention = first.attention
    config = AutoConfig.for_model(
        "youtu",
        vocab_size=body.vocabulary.size,
        hidden_size=body.hidden_size,
        intermediate_size=first.ffn.width,
        num_hidden_layers=len(body.blocks),
        num_attention_heads=attention.num_heads,
        num_key_value_heads=attention.num_heads,
        kv_lora_rank=sizes.rank,
        q_lora_rank=sizes.query_rank,
        qk_rope_head_dim=sizes.turned,
        qk_nope_head_dim=attention.head_dim.size - sizes.turned,
        v_head_dim=attention.value_dim.size,
        hidden_act=_activation(body),
        max_position_embeddings=body.max_positions,
        rms_norm_eps=norm.epsilon,
        tie_word_embeddings="tied_head" in body.capabilities,
        rope_parameters={**rotary_of(body), "rope_theta": sizes.theta},
        rope_interleave=False,
        attention_bias=True,
        **{name: getattr(body.config, name) for name in COPIED if getattr(body.config, name, None) is not None},
        embedding_initializer_range=getattr(body.config, "initializer_range", None),
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(body.config, name, None))
    parameter = next(model.parameters())
    with torch.random.fork_rng(devices=[]), torch.device("meta" if parameter.is_meta else "cpu"):
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(config, dtype=body.dtype)
    made.generation_config = copy.deepcopy(model.generation_config)
    other = of(made.to(parameter.device).train(model.training))
    if not parameter.is_meta:
        _copy(body, other)
    return other


def _copy(body: Anatomy, other: Anatomy) -> None:
    """Write everything but queries, keys and values into the other model."""
    assert body.embedding is not None and other.embedding is not None
    other.embedding.write_(body.embedding.read())
    if "untied_head" in body.capabilities:
        assert body.head is not None and other.head is not None
        other.head.write_(body.head.read())
    assert body.final_norm is not None and other.final_norm is not None
    other.final_norm.write_(body.final_norm.read())
    for old, new in zip(body.blocks, other.blocks, strict=True):
        for given, kept in zip(_maps(old), _maps(new), strict=True):
            kept.write_(given.read())
            if kept.bias is not None:
                bias = given.bias_read()
                kept.bias.write_(torch.zeros(kept.bias.shape) if bias is None else bias)
        for name in ("norm_attention", "norm_ffn"):
            getattr(new, name).write_(getattr(old, name).read())


def _maps(block: Block) -> list[Weight]:
    """The linear maps that both classes have."""
    return [block.attention.output, *block.ffn.weights()]


def become_(body: Anatomy, other: Anatomy) -> None:
    """Let a model, the object that others hold, be what another is, class and all. The other is not to be used then."""
    model, made = body.model, other.model
    vars(model).clear()
    vars(model).update(vars(made))
    model.__class__ = type(made)
    body.shape = other.shape
    body.refresh()

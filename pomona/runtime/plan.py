"""From a model's anatomy to the plan of the compiled step, and the check that both compute the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pomona.anatomy import Anatomy, Block
from pomona.anatomy.weight import Norm, Weight
from pomona.ground.errors import UnsupportedModel
from pomona.runtime.folder import LoadedModel
from pomona.runtime.native import BlockPlan, Linear, NativeStep, NoNativeStep, Normalization, Plan

NEEDS = ("pre_norm", "causal", "single_stack", "linear_head", "dense_ffn", "direct_attention")
STEADY_ROTARY = ("default", "linear", "llama3", "yarn", "proportional")
"""Kinds of rotary positions whose angles do not depend on the length of the sequence."""
CHECK_TOKENS = 24
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2}
"""Largest difference of a logit, in standard deviations of the logits, by the dtype that the model computes in."""
EXACT_LIMIT = 1_500_000_000
"""Dense parameters up to which the check converts a copy of a bfloat16 model to float32."""


def plan_of(loaded: LoadedModel) -> Plan:
    """The plan of a model's decoding step. Raises `NoNativeStep` with the reason why there is none."""
    try:
        body = loaded.body()
        body.require(*NEEDS, method="the compiled decoding step")
    except UnsupportedModel as error:
        raise NoNativeStep(f"{error.what}: {error.needs or ''}".strip(": ")) from error
    stack, blocks = body.stacks[0], body.blocks
    for held, reason in (
        ("sliding_window" in body.capabilities, "attention to a window"),
        ("softcap" in body.capabilities, "capped scores"),
        (body.embedding_scale != 1.0, "a factor of the embeddings"),
        (any(b.branch_scale != 1.0 for b in blocks), "a factor of what a block adds"),
        (any(b.attention.rotary not in (0, b.attention.head_dim.size) for b in blocks), "partly rotary heads"),
        (len({b.attention.rotary for b in blocks}) > 1, "rotary positions in some blocks only"),
        (
            any(norm.gain.axes[0].size > b.attention.head_dim.size for b in blocks for norm in b.attention.norms()),
            "norms over all heads",
        ),
        ("relative_bias" in body.capabilities, "a relative position bias"),
        (stack.embedding_norm is not None, "a norm on the embedding"),
        (bool(stack.tables), "further embedding tables"),
        (bool(body.around), "projections around the blocks"),
        (stack.final_norm is None, "no final norm"),
        (not blocks, "no blocks"),
    ):
        if held:
            raise NoNativeStep(f"the compiled decoding step does not know {reason}")
    sizes = {
        (b.attention.num_heads, b.attention.num_kv_heads, b.attention.head_dim.size, b.ffn.features.size)
        for b in blocks
    }
    scalings = {block.attention.scaling for block in blocks}
    if len(sizes) > 1 or len(scalings) > 1:
        raise NoNativeStep("the compiled decoding step needs blocks of equal sizes and scaling")
    heads, kv_heads, head_dim, _ = sizes.pop()
    assert stack.final_norm is not None and body.head is not None and body.embedding is not None

    def linear(weight: Weight) -> Linear:
        bias = None if weight.bias is None else loaded.tensor(weight.bias)
        return Linear(loaded.linear_weight(weight), bias)

    def norm(part: Norm | None) -> Normalization | None:
        if part is None:
            return None
        gain = loaded.tensor(part.gain).float() + part.offset
        bias = None if part.bias is None else loaded.tensor(part.bias)
        return Normalization(gain, bias, part.epsilon, part.kind == "layer")

    def surely(part: Norm | None) -> Normalization:
        found = norm(part)
        assert found is not None
        return found

    return Plan(
        blocks=[
            BlockPlan(
                norm_attention=surely(block.norm_attention),
                norm_ffn=surely(block.norm_ffn),
                norm_query=norm(block.attention.query_norm),
                norm_key=norm(block.attention.key_norm),
                query=linear(block.attention.query),
                key=linear(block.attention.key),
                value=linear(block.attention.value),
                output=linear(block.attention.output),
                up=linear(block.ffn.up),
                gate=None if block.ffn.gate is None else linear(block.ffn.gate),
                down=linear(block.ffn.down),
            )
            for block in blocks
        ],
        embedding=loaded.tensor(body.embedding),
        positions=None if stack.positions is None else loaded.tensor(stack.positions)[stack.first_position :],
        head=linear(body.head),
        final_norm=surely(stack.final_norm),
        rotary=_rotary(body, loaded.model),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scaling=scalings.pop(),
        activation=_activation(blocks[0]),
        max_positions=body.max_positions,
    )


def _activation(block: Block) -> str:
    """Which activation the feed-forward applies, found by calling it."""
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "relu": functional.relu,
    }
    homes = ("torch.nn.modules.activation", "transformers.activations")
    x = torch.linspace(-6, 6, 97, device="cpu")
    found = set()
    for module in block.module.modules():
        if type(module).__module__ not in homes:
            continue
        with torch.device("cpu"):
            y = module(x)
        found |= {name for name, f in known.items() if torch.allclose(y, f(x), atol=1e-6, rtol=0)} or {"another"}
    if len(found) != 1 or "another" in found:
        raise NoNativeStep("the compiled decoding step knows the activations silu, gelu, tanh-gelu and relu")
    return found.pop()


def _rotary(body: Anatomy, model: Any) -> Callable[[int], tuple[Tensor, Tensor]] | None:
    """How the model makes cosines and sines of positions, by its own module, or None when it has no such."""
    if "rotary" not in body.capabilities:
        return None
    makers = [module for module in model.modules() if isinstance(getattr(module, "inv_freq", None), Tensor)]
    if len(makers) != 1:
        raise NoNativeStep("the compiled decoding step needs one module that makes the rotary positions")
    kind = getattr(makers[0], "rope_type", "default")
    if kind not in STEADY_ROTARY:
        raise NoNativeStep(f"rotary positions of the kind {kind!r} change with the length of the text")

    def tables(length: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            cosine, sine = makers[0](torch.zeros(1, dtype=torch.float32), torch.arange(length)[None])
        return cosine[0], sine[0]

    return tables


def check(step: NativeStep, loaded: LoadedModel) -> None:
    """Compare the compiled step with the model's own forward on random tokens. Raises `NoNativeStep`."""
    length = min(CHECK_TOKENS, step.max_positions or CHECK_TOKENS)
    tokens = torch.randint(step.vocabulary, (1, length), generator=torch.Generator().manual_seed(0))
    model: nn.Module = loaded.model
    if loaded.model.dtype != torch.float32 and sum(p.numel() for p in model.parameters()) <= EXACT_LIMIT:
        model = copy.deepcopy(loaded.model).float()
    with torch.no_grad():
        theirs = model(input_ids=tokens, use_cache=False).logits[0].float()
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    cache = step.new_cache(1, length, torch.float32)
    numbers = list(range(length))
    # In two steps, so that attending to the cache is checked too.
    cut = length // 2
    row = tokens[0].tolist()
    ours = torch.empty_like(theirs)
    for begin, end in ((0, cut), (cut, length)):
        if begin < end:
            count = end - begin
            ours[begin:end] = step.step(cache, row[begin:end], [0] * count, numbers[begin:end], list(range(count)))[1]
    spread = float(theirs.std())
    gap = float((ours - theirs).abs().max())
    if not gap <= TOLERANCE[dtype] * max(spread, 1e-6):
        raise NoNativeStep(
            f"the compiled decoding step does not compute what the model computes (a logit is off by {gap:.2g}, "
            f"{gap / max(spread, 1e-6):.2g} standard deviations)"
        )

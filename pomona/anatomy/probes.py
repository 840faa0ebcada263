"""Probes: execute a model and see whether its declaration tells the truth.

Every probe takes the anatomy of a small random model in float64 (see `enlarged_copy`) and yields `Check`s. Each part of
a declaration is a claim; a probe is the experiment that would fail if the claim were wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pomona.anatomy.block import Attention, Block, Stack
from pomona.anatomy.body import Anatomy, of
from pomona.anatomy.declaration import Shape
from pomona.anatomy.permute import derangement, permutable, reorder_
from pomona.anatomy.space import Space
from pomona.anatomy.taps import tap_inputs, tap_outputs
from pomona.anatomy.weight import Norm, Weight

EQUAL = 1e-5
"""Largest relative difference of what ought to be equal. Models take norms in float32 whatever their dtype is."""
DIFFERENT = 1e-3
"""Smallest relative difference that counts as an effect."""
PLACE = 3
"""The position at which the roles of queries, keys and values are tried: not the first, which sees only itself."""


@dataclass(frozen=True)
class Check:
    """The outcome of one experiment.

    Args:
        probe: name of the probe.
        part: what it was made on.
        passed: the declaration told the truth.
        found: the measured number, or what was found instead.
    """

    probe: str
    part: str
    passed: bool
    found: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'} {self.probe}: {self.part} ({self.found})"


def enlarged_copy(model: Any, shape: Shape | str | None = None, seed: int = 0) -> Anatomy:
    """The anatomy of a float64 copy of `model` with large random weights, gains and biases, in evaluation mode.

    At the usual initialization biases are zero and gains one, so that most probes would pass whatever is declared.
    """
    copied = copy.deepcopy(model).to("cpu", torch.float64).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copied.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() > 1:
                parameter.copy_(2 * noise / parameter.shape[-1] ** 0.5)
            else:
                is_gain = bool(parameter.mean() > 0.5)
                parameter.copy_(is_gain + 0.5 * noise)
    return of(copied, shape)


def probe_inputs(body: Anatomy, batch: int = 2, tokens: int = 12, seed: int = 1) -> dict[str, Tensor]:
    """Random token ids; for a decoder of its own another, shorter sequence."""
    tokens = min(tokens, body.max_positions or tokens)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(body.vocab_size, (batch, tokens), generator=generator)
    if len(body.stacks) == 1:
        return {"input_ids": ids}
    return {"input_ids": ids, "decoder_input_ids": torch.randint(body.vocab_size, (batch, 7), generator=generator)}


def outputs_of(body: Anatomy, inputs: dict[str, Tensor]) -> Tensor:
    """The model's own logits, or its hidden states when it has no head."""
    with torch.no_grad():
        output: Tensor = body.hidden(**inputs) if body.head is None else body.model(**inputs).logits
    return output


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected number; infinite when not finite."""
    relative = float((found - expected).abs().max() / expected.abs().max())
    return relative if relative == relative else float("inf")


def _equal(probe: str, part: str, found: Tensor, expected: Tensor) -> Check:
    error = difference(found, expected)
    return Check(probe, part, error < EQUAL, f"difference {error:.1e}")


def probe_forward(body: Anatomy) -> Iterator[Check]:
    """Hidden states and head, one after the other, give the model's logits."""
    inputs = probe_inputs(body)
    if body.head is not None:
        with torch.no_grad():
            found = body.logits(body.hidden(**inputs))
        yield _equal("forward", "logits of hidden states", found, outputs_of(body, inputs))


def probe_sizes(body: Anatomy) -> Iterator[Check]:
    """The configuration's numbers are those of the tensors, and every parameter is counted."""
    fields, config = body.shape.fields, body.config
    for block in body.blocks:
        own = block.attention
        pairs = [
            (fields.heads, own.num_heads),
            (fields.kv_heads, own.num_kv_heads),
            (fields.head_dim, own.head_dim.size),
            (fields.feed_forward, block.ffn.width),
        ]
        for name, size in pairs:
            value = getattr(config, name, None)
            if value is not None:
                yield Check(
                    "sizes", f"{block.path}: {name}", value == size, f"{value} in the configuration, {size} here"
                )
    for declared, stack in zip(body.shape.stacks, body.stacks, strict=True):
        count = getattr(config, declared.count)
        yield Check("sizes", f"{stack.path}: {declared.count}", count == len(stack.blocks), f"{count}")
    seen = {part.key: part.numel() for part in body.parts()}
    unseen = sum(body.model.get_parameter(name).numel() for name in body.unseen)
    total = sum(parameter.numel() for parameter in body.model.parameters())
    yield Check("sizes", "all parameters", sum(seen.values()) + unseen == total, f"{total}")


def probe_unseen(body: Anatomy) -> Iterator[Check]:
    """Parameters that the declaration does not mention have no part in the outputs."""
    inputs = probe_inputs(body)
    expected = outputs_of(body, inputs)
    for name in body.unseen:
        with _replaced(body.model.get_parameter(name), seed=2):
            yield _equal("unseen", name, outputs_of(body, inputs), expected)


def probe_weights(body: Anatomy) -> Iterator[Check]:
    """A linear map, read in canonical orientation, gives its module's outputs for its module's inputs."""
    inputs = probe_inputs(body)
    for weight in body.weights():
        seen: list[Tensor] = []
        with tap_inputs(weight, seen.append), tap_outputs(weight, seen.append):
            outputs_of(body, inputs)
        if len(seen) != 2:
            yield Check("weights", weight.name, False, f"{len(seen) // 2} calls in one forward pass")
            continue
        found = nn.functional.linear(seen[0].detach(), weight.read(), weight.bias_read())
        yield _equal("weights", f"{weight.name} ({weight.role})", found, seen[1].detach())


def probe_norms(body: Anatomy) -> Iterator[Check]:
    """A norm computes what its kind, gain, bias, offset and epsilon say."""
    norms = [norm for block in body.blocks for norm in block.norms()]
    for stack in body.stacks:
        norms += [norm for norm in (stack.embedding_norm, stack.final_norm) if norm is not None]
    for norm in norms:
        # Small numbers, so that epsilon matters.
        x = 1e-2 * torch.randn(5, norm.gain.shape[0], dtype=torch.float64) + 3e-3
        with torch.no_grad():
            found = norm.module(x)
        error = difference(found, normalize(norm, x))
        # Root mean squares are often taken in float32 whatever the dtype.
        yield Check("norms", norm.gain.name, error < 1e-5, f"difference {error:.1e}")


def normalize(norm: Norm, x: Tensor) -> Tensor:
    """What a norm computes, from its declaration."""
    if norm.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x * (x.square().mean(-1, keepdim=True) + norm.epsilon).rsqrt() * (norm.offset + norm.gain.read())
    return x if norm.bias is None else x + norm.bias.read()


def probe_placement(body: Anatomy) -> Iterator[Check]:
    """Attention and feed-forward read what the declared norms give, and a block adds what they give as declared."""
    inputs = probe_inputs(body)
    for stack in body.stacks:
        for block in stack.blocks:
            flow = _flow(body, stack, block, inputs)
            state, branches = flow.entered, _branches(block)
            sum_at_once = block.placement == "parallel"
            added = torch.zeros_like(state)
            for branch, read, gave in zip(branches, flow.read, flow.gave, strict=True):
                expected = state if branch.before is None else normalize(branch.before, state)
                yield _equal("placement", f"{block.path}: what {branch.name} reads", read, expected)
                gave = gave if branch.after is None else normalize(branch.after, gave)
                if sum_at_once:
                    added = added + block.branch_scale * gave
                    continue
                state = state + block.branch_scale * gave
                state = state if branch.on_sum is None else normalize(branch.on_sum, state)
            yield _equal("placement", f"{block.path} is {block.placement}-norm", flow.left, state + added)


@dataclass(frozen=True)
class _Branch:
    """Attention or feed-forward with the norms around it."""

    name: str
    reader: Weight
    writer: nn.Module
    before: Norm | None
    after: Norm | None
    on_sum: Norm | None


def _branches(block: Block) -> list[_Branch]:
    """What a block adds, in order."""
    cross, ffn = block.cross_attention, block.ffn
    attention = (block.attention.query, block.attention.output.owner)
    parts = [("attention", *attention, block.norm_attention, block.norm_attention_out)]
    if cross is not None:
        parts.append(("cross attention", cross.query, cross.output.owner, block.norm_cross, None))
    parts.append(("feed-forward", ffn.router or ffn.up, ffn.module, block.norm_ffn, block.norm_ffn_out))
    if block.placement == "post":
        return [_Branch(name, reader, writer, None, None, norm) for name, reader, writer, norm, _ in parts]
    return [_Branch(name, reader, writer, norm, out, None) for name, reader, writer, norm, out in parts]


@dataclass
class _Flow:
    """(rows, hidden) each: what enters and leaves a block, what its branches read and give."""

    entered: Tensor
    left: Tensor
    read: list[Tensor]
    gave: list[Tensor]


def _flow(body: Anatomy, stack: Stack, block: Block, inputs: dict[str, Tensor]) -> _Flow:
    ends: list[Tensor] = []
    read: list[Tensor] = []
    gave: list[Tensor] = []

    def flat(output: Any) -> Tensor:
        tensor: Tensor = output[0] if isinstance(output, tuple) else output
        return tensor.detach().reshape(-1, body.hidden_size)

    with ExitStack() as taps:
        hooks = [
            block.module.register_forward_hook(lambda module, args, output: ends.extend(map(flat, (args, output))))
        ]
        for branch in _branches(block):
            hooks.append(branch.writer.register_forward_hook(lambda module, args, output: gave.append(flat(output))))
            taps.enter_context(tap_inputs(branch.reader, lambda rows: read.append(rows.detach())))
        for hook in hooks:
            taps.callback(hook.remove)
        outputs_of(body, inputs)
    return _Flow(ends[0], ends[1], read, gave)


def probe_roles(body: Anatomy) -> Iterator[Check]:
    """Queries act at their own position; keys and values where the mask allows; values and `up` act linearly."""
    inputs = probe_inputs(body, batch=1)
    for block in body.blocks:
        pairs = [(block.attention, False), (block.cross_attention, True)]
        for attention, cross in pairs:
            if attention is None:
                continue
            where = f"{block.path} ({attention.query.role.rsplit('.', 1)[0]})"
            for weight in (attention.query, attention.key, attention.value):
                moved = _positions_moved(body, weight, attention.output, inputs)
                seen_from = [PLACE] if weight is attention.query else _that_see(attention, block, body, inputs, cross)
                yield Check("roles", f"{where}: {weight.role}", moved == seen_from, f"{PLACE} acts at {moved}")
            yield _linear_in(body, attention.value, attention.output, inputs, True, where)
            yield _linear_in(body, attention.key, attention.output, inputs, False, where)
        if block.ffn.gate is not None:
            yield _linear_in(body, block.ffn.up, block.ffn.down, inputs, True, block.path)
            yield _linear_in(body, block.ffn.gate, block.ffn.down, inputs, False, block.path)


def _that_see(attention: Attention, block: Block, body: Anatomy, inputs: dict[str, Tensor], cross: bool) -> list[int]:
    """Positions whose queries see the key at `PLACE`."""
    own = "decoder_input_ids" if len(body.stacks) > 1 and block.kind == body.stacks[-1].name else "input_ids"
    tokens = inputs[own].shape[1]
    if cross or not attention.causal:
        return list(range(tokens))
    return list(range(PLACE, min(tokens, PLACE + (attention.window or tokens))))


def _positions_moved(body: Anatomy, weight: Weight, reader: Weight, inputs: dict[str, Tensor]) -> list[int]:
    """Positions at which `reader` gets something else when the outputs of `weight` at `PLACE` change."""

    def change(rows: Tensor) -> Tensor:
        return rows * (torch.arange(rows.shape[1]) != PLACE)[:, None]

    plain = _read_by(body, reader, inputs)
    with _changed_outputs(weight, change):
        moved = _read_by(body, reader, inputs)
    return (moved - plain).abs().amax(-1).nonzero().flatten().tolist()


def _linear_in(
    body: Anatomy, weight: Weight, reader: Weight, inputs: dict[str, Tensor], linear: bool, where: str
) -> Check:
    """Whether doubling the outputs of `weight` doubles what `reader` gets, as `linear` expects."""
    plain = _read_by(body, reader, inputs)
    with _changed_outputs(weight, lambda rows: 2 * rows):
        doubled = _read_by(body, reader, inputs)
    error = difference(doubled, 2 * plain)
    passed = error < EQUAL if linear else error > DIFFERENT
    return Check("roles", f"{where}: {weight.role} {'acts linearly' if linear else 'does not'}", passed, f"{error:.1e}")


def _read_by(body: Anatomy, reader: Weight, inputs: dict[str, Tensor]) -> Tensor:
    seen: list[Tensor] = []
    with tap_inputs(reader, seen.append):
        outputs_of(body, inputs)
    return seen[0].detach()


@contextmanager
def _changed_outputs(weight: Weight, change: Any) -> Iterator[None]:
    """Within the block, a linear map gives `change` of its (B, T, outputs)."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        rows = slice(None) if weight.rows is None else weight.rows
        changed[..., rows] = change(output[..., rows])
        return changed

    handle = weight.owner.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _replaced(parameter: nn.Parameter, seed: int) -> Iterator[None]:
    """Within the block, a parameter holds other random numbers."""
    kept = parameter.detach().clone()
    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed), dtype=parameter.dtype)
    parameter.data.add_(noise)
    try:
        yield
    finally:
        parameter.data.copy_(kept)


def probe_spaces(body: Anatomy) -> Iterator[Check]:
    """Permuting a space in all of its weights changes nothing; permuting the vocabulary permutes the logits."""
    inputs = probe_inputs(body)
    expected = outputs_of(body, inputs)
    for space, order in _orders(body):
        reorder_(body, space, order)
        yield _equal("spaces", str(space), outputs_of(body, inputs), expected)
        reorder_(body, space, order.argsort())
    order = torch.randperm(body.vocab_size, generator=torch.Generator().manual_seed(3))
    reorder_(body, body.vocabulary, order)
    renamed = {name: order.argsort()[ids] for name, ids in inputs.items()}
    wanted = expected if body.head is None else expected[..., order]
    yield _equal("spaces", str(body.vocabulary), outputs_of(body, renamed), wanted)
    reorder_(body, body.vocabulary, order.argsort())


def probe_annotations(body: Anatomy) -> Iterator[Check]:
    """Leaving any one weight out of a permutation is noticed, unless the weight provably has no effect at all."""
    inputs = probe_inputs(body)
    expected = outputs_of(body, inputs)
    for space, order in _orders(body):
        members = body.members(space)
        for left_out in members:
            weight = left_out[0]
            reorder_(body, space, order, left_out)
            change = difference(outputs_of(body, inputs), expected)
            reorder_(body, space, order.argsort(), left_out)
            found = f"difference {change:.1e}"
            noticed = change > DIFFERENT
            if not noticed:
                with _replaced_part(weight):
                    noticed = difference(outputs_of(body, inputs), expected) < EQUAL
                found = "proven to have no effect on the outputs" if noticed else f"unnoticed, {found}"
            yield Check("annotations", f"{space} without {weight.name} ({weight.role})", noticed, found)


@contextmanager
def _replaced_part(weight: Weight) -> Iterator[None]:
    kept = weight.read().clone()
    weight.write_(kept + torch.randn(weight.shape, generator=torch.Generator().manual_seed(4), dtype=kept.dtype))
    try:
        yield
    finally:
        weight.write_(kept)


def _orders(body: Anatomy) -> Iterator[tuple[Space, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    for space in body.spaces():
        order = derangement(space, generator)
        if permutable(body, space) and order is not None:
            yield space, order


def probe_blocks(body: Anatomy) -> Iterator[Check]:
    """Deleting a block equals skipping it."""
    if len(body.stacks) > 1 or len(body.blocks) < 2:
        return
    inputs = probe_inputs(body)
    for block in body.blocks:
        handle = block.module.register_forward_hook(lambda module, args, output: args[0])
        skipped = outputs_of(body, inputs)
        handle.remove()
        shorter = of(copy.deepcopy(body.model), body.shape)
        shorter.restack_([index for index in range(len(body.blocks)) if index != block.index])
        yield _equal("blocks", f"without {block.path}", outputs_of(shorter, inputs), skipped)

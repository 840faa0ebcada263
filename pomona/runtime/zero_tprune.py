"""Zero-TPrune: drop image tokens that others do not look at, and near doubles, without any training.

Source: Wang, Dedhia and Jha, "Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in
Pre-Trained Transformers", CVPR 2024, arXiv:2305.17328.
Implements: attention as a graph whose nodes vote: Weighted Page Rank s <- A^T s of each head (Sec. 3.2), heads kept
    whose variance of scores lies in a range (VHF) and joined by their root mean square (EIR); then, at each point,
    I'-S-I: a cheap ranking divides tokens in two halves, tokens of the less important half that have the most similar
    partner in the other go (S-stage), and of the rest the least important go (I-stage).
Deviations: variances are those of scores with mean 1, without which the paper's range of 0.01 to 0.7 lets no head pass.
    Points lie after the blocks 1, 3, 6 and 9 of twelve, and at the same shares of another depth; one after the last
    block would save nothing. All images of a batch keep as many tokens.
Use when: a trained vision transformer is to run faster now. Cost: the attention map of the blocks at points, up to 30
    products of it with a vector, one product of keys.
Relations: with one iteration from the uniform vector the ranking is the mean attention that a token receives. ToMe
    merges pairs by similarity alone; `merge` averages here, too.
Limits: encoders of images with a class token (which, as other tokens of the model's own, always stays) and without
    windows. Outputs for single patches (segmentation, reconstruction) lose theirs. Without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, AttentionCall, Block, Modifier, modify_attention
from pomona.anatomy.attention_call import Effect
from pomona.anatomy.taps import hidden_of
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.runtime.accelerator import AcceleratorConfig

Share = Annotated[float, Field(gt=0, le=1)]
DEPTHS = (1 / 12, 3 / 12, 6 / 12, 9 / 12)
"""Where points lie by default: index of the block over the number of blocks."""
SETTLED = 1e-5
"""Change of scores at which the ranking has converged."""


class ZeroTPruneConfig(AcceleratorConfig):
    """Prune tokens at a few blocks by importance on the attention graph and by similarity."""

    method: Literal["zero-tprune"] = "zero-tprune"
    flops: Share = 0.65
    """FLOPs of the blocks that remain, as a share of the whole. Retention is the same at every point."""
    points: tuple[NonNegativeInt, ...] = ()
    """Blocks after which tokens go, ascending from 0. Default: 1, 3, 6 and 9 of twelve, in proportion."""
    keep: tuple[PositiveInt, ...] = ()
    """Tokens after each point, the model's own among them, in place of what `flops` leads to."""
    similar: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the tokens that go at a point which go because they are similar to another."""
    iterations: tuple[PositiveInt, PositiveInt, PositiveInt] = (30, 5, 1)
    """Most iterations of the ranking in the first, the middle and the last third of the blocks."""
    variance: tuple[float, float] = (0.01, 0.7)
    """Heads whose scores (mean 1) vary less or more than this have no vote, unless none is left."""
    partition: Literal["importance", "alternate"] = "importance"
    """Which tokens may go for their similarity: the less important half, or every other one in the image."""
    feature: Literal["key", "query", "value"] = "key"
    """What similarity is taken of, heads side by side."""
    metric: Literal["cosine", "dot", "distance"] = "cosine"
    """How similarity is measured; `distance` is Euclidean."""
    merge: bool = False
    """Average a token that goes for its similarity into its partner. The paper deletes it."""

    def check(self, body: Anatomy) -> None:
        """See `AcceleratorConfig.check`."""
        needs = ("vision", "class_token", "bidirectional", "single_stack", "blockwise")
        body.require(*needs, method=self.method)
        if any(block.attention.window is not None for block in body.blocks):
            raise UnsupportedModel(
                f"zero-tprune cannot run on {type(body.model).__name__} (nothing was changed)",
                needs="attention to all tokens in every block",
                found="windows of neighbours",
                do="choose a model without windows",
            )
        points, count = self.points_of(body), len(body.blocks)
        if list(points) != sorted(set(points)) or points[-1] >= count:
            raise ConfigError(
                f"the points {points} do not fit {count} blocks", needs="ascending indices", do="name others"
            )
        if self.keep and (len(self.keep) != len(points) or list(self.keep) != sorted(self.keep, reverse=True)):
            raise ConfigError(
                f"keep {self.keep} does not fit the points {points}",
                needs="a number for each point, none larger than the one before",
            )

    def points_of(self, body: Anatomy) -> tuple[int, ...]:
        """Blocks after which tokens go."""
        count = len(body.blocks)
        return self.points or tuple(sorted({min(round(share * count), count - 1) for share in DEPTHS}))

    def attach(self, model: Any) -> AbstractContextManager[Pruning]:
        """See `AcceleratorConfig.attach`."""
        body = model if isinstance(model, Anatomy) else anatomy.of(model)
        self.check(body)
        return pruned(body, self)

    def unlimited(self) -> Self:
        """See `AcceleratorConfig.unlimited`."""
        return self.model_copy(update={"flops": 1.0, "keep": ()})


# ---- which tokens go


def page_rank(attention_BNTT: Tensor, start_T: Tensor, iterations: int, alive_BT: Tensor | None = None) -> Tensor:
    """(B, N, T) scores of each head, sum 1: s <- A^T s, every token voting with its own score for what it looks at.

    Args:
        attention_BNTT: rows sum to 1; at least float32.
        start_T: first scores, any positive scale.
        iterations: at most; it ends when no score changes by more than `SETTLED`.
        alive_BT: bool, the tokens that are left in the graph; by default all. Their votes are shared among them alone.
    """
    batch, heads, tokens, _ = attention_BNTT.shape
    scores = start_T.to(attention_BNTT).expand(batch, heads, 1, tokens)
    alive = attention_BNTT.new_ones(batch, 1, 1, tokens)
    weight: Tensor = alive  # of each voter: 1 over what it gives to tokens in the graph
    if alive_BT is not None:
        alive = alive_BT.to(attention_BNTT)[:, None, None]
        weight = alive / (attention_BNTT @ alive.transpose(2, 3)).transpose(2, 3).clamp(min=1e-30)
    scores = scores * alive
    scores = scores / scores.sum(-1, keepdim=True)
    for step in range(iterations):
        voted = ((scores * weight) @ attention_BNTT) * alive
        voted = voted / voted.sum(-1, keepdim=True)
        # Looking at every step costs more than some steps too many.
        settled = step % 5 == 4 and float((voted - scores).norm(dim=-1).max()) < SETTLED
        scores = voted
        if settled:
            break
    return scores[:, :, 0]


def importance(scores_BNT: Tensor, variance: tuple[float, float]) -> Tensor:
    """(B, T) root mean square over the heads of scores at mean 1, without heads whose variance is out of range."""
    scores = scores_BNT.float() * scores_BNT.shape[2]
    spread = scores.var(-1, correction=0)
    kept = (spread >= variance[0]) & (spread <= variance[1])
    kept = (kept | ~kept.any(1, keepdim=True)).float()[..., None]
    return ((scores.square() * kept).sum(1) / kept.sum(1)).sqrt()


def similar_ones(
    features_BTF: Tensor, scores_BT: Tensor, own: int, count: int, partition: str, metric: str
) -> tuple[Tensor, Tensor]:
    """Which tokens go because another is like them.

    Args:
        features_BTF: what is compared. scores_BT: importance.
        own: tokens at the beginning that stay.
        count: how many go, at most half of the others.
    Returns:
        (B, count) places of those that go, and of their partners, which stay.
    """
    others = scores_BT.shape[1] - own
    if partition == "importance":
        order = scores_BT[:, own:].argsort(-1) + own
    else:
        places = torch.arange(others, device=scores_BT.device)
        order = torch.cat([places[::2], places[1::2]]).expand(len(scores_BT), -1) + own
    less, more = order[:, : others // 2], order[:, others // 2 :]
    features = torch.nn.functional.normalize(features_BTF, dim=-1) if metric == "cosine" else features_BTF

    def taken(places: Tensor) -> Tensor:
        return features.gather(1, places[..., None].expand(-1, -1, features.shape[2]))

    if metric == "distance":
        likeness = -torch.cdist(taken(less).float(), taken(more).float())
    else:
        likeness = taken(less) @ taken(more).transpose(1, 2)
    best, partner = likeness.max(-1)
    chosen = best.topk(count, -1).indices
    return less.gather(1, chosen), more.gather(1, partner.gather(1, chosen))


def kept_tokens(
    attention_BNTT: Tensor, features_BTF: Tensor, own: int, keep: int, iterations: int, config: ZeroTPruneConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """I'-S-I: the places of the tokens that stay, ascending (B, keep), and the merged pairs (gone, partner)."""
    batch, _, tokens, _ = attention_BNTT.shape
    gone = tokens - keep
    start = torch.ones(tokens, device=attention_BNTT.device)
    start[:1] = tokens**0.5
    doubles = min(round(config.similar * gone), (tokens - own) // 2)
    graph = attention_BNTT.to(torch.promote_types(attention_BNTT.dtype, torch.float32))
    out = torch.zeros(batch, tokens, dtype=torch.bool, device=graph.device)
    pairs = out.new_zeros(2, batch, 0, dtype=torch.long)
    if doubles:
        cheap = importance(page_rank(graph, start, 1), config.variance)
        first, partner = similar_ones(features_BTF, cheap, own, doubles, config.partition, config.metric)
        out.scatter_(1, first, True)
        pairs = torch.stack([first, partner])
    if gone > doubles:
        scores = importance(page_rank(graph, start, iterations, ~out if doubles else None), config.variance)
        scores = scores.masked_fill(out, torch.inf)
        scores[:, :own] = torch.inf
        out.scatter_(1, scores.topk(gone - doubles, -1, largest=False).indices, True)
    return (~out).nonzero()[:, 1].view(batch, keep), *pairs


Choose = Callable[[Tensor, Tensor, int, int, int, ZeroTPruneConfig], tuple[Tensor, Tensor, Tensor]]

# ---- in a model


@dataclass(eq=False)
class Pruning:
    """What happens while a model is pruned.

    Attributes:
        config, body, own: of the method, of the model, and the number of tokens that the model adds itself.
        choose: which tokens stay; see `kept_tokens`.
        tokens: after the stem and after each point, of the last pass.
    """

    config: ZeroTPruneConfig
    body: Anatomy
    own: int
    choose: Choose
    tokens: list[int] = field(default_factory=list)
    _seen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep(self, block: int, tokens: int) -> int:
        """How many stay after the point at a block, of so many at the beginning of the model."""
        points = self.config.points_of(self.body)
        place = points.index(block)
        wanted = self.config.keep or counts_for(self.body, points, tokens, self.own, self.config.flops)
        return wanted[place]

    def prune(self, block: int, hidden: Tensor) -> Tensor:
        """The hidden states (B, T, D) after a block, of the tokens that stay."""
        attention, features = self._seen.pop(block)
        if block == self.config.points_of(self.body)[0]:
            self.tokens = [hidden.shape[1]]
        keep = min(self.keep(block, self.tokens[0]), hidden.shape[1])
        self.tokens.append(keep)
        if keep == hidden.shape[1]:
            return hidden
        third = 3 * block // len(self.body.blocks)
        iterations = self.config.iterations[third]
        places, gone, partner = self.choose(attention, features, self.own, keep, iterations, self.config)
        if self.config.merge and gone.shape[1]:
            hidden = merged(hidden, gone, partner)
        return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))


@contextmanager
def pruned(body: Anatomy, config: ZeroTPruneConfig, choose: Choose = kept_tokens) -> Iterator[Pruning]:
    """Within the block, the model prunes its tokens, by another choice than the method's where one is given."""
    state = Pruning(config, body, body.own_tokens, choose)
    points = config.points_of(body)
    with ExitStack() as stack:
        stack.enter_context(modify_attention(body, [Graphs(state, points)]))
        for index in points:
            stack.callback(_pruning_hook(body.blocks[index], index, state).remove)
        yield state


@dataclass(eq=False)
class Graphs(Modifier):
    """Computes attention with its map at hand, where tokens go afterwards."""

    state: Pruning
    points: tuple[int, ...]
    effects: ClassVar[frozenset[Effect]] = frozenset({"kernel"})

    def modify(self, call: AttentionCall) -> None:
        if call.place.index in self.points:
            call.compute_with(self._compute)

    def _compute(self, call: AttentionCall) -> Tensor:
        attention = call.probabilities(slice(0, call.queries)).to(call.value.dtype)
        features = {"key": call.key, "query": call.query, "value": call.value}[self.state.config.feature]
        self.state._seen[call.place.index] = attention.detach(), features.transpose(1, 2).flatten(2).detach()
        return attention @ call.value


def _pruning_hook(block: Block, index: int, state: Pruning) -> Any:
    def hook(module: Any, args: Any, output: Any) -> Any:
        hidden = state.prune(index, hidden_of(output))
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return block.module.register_forward_hook(hook)


def merged(hidden_BTD: Tensor, gone: Tensor, partner: Tensor) -> Tensor:
    """Hidden states in which each partner is the mean of itself and of what goes for it."""
    width = hidden_BTD.shape[2]
    rows = hidden_BTD.gather(1, gone[..., None].expand(-1, -1, width))
    return hidden_BTD.scatter_reduce(1, partner[..., None].expand(-1, -1, width), rows, "mean")


def counts_for(body: Anatomy, points: tuple[int, ...], tokens: int, own: int, flops: float) -> tuple[int, ...]:
    """Tokens after each point, the same share of the tokens staying at each, with which the model needs the share
    `flops` of its FLOPs; found by bisection."""
    if flops == 1.0:
        return (tokens,) * len(points)
    whole = body.flops_per_token(tokens, training=False) * tokens
    blocks = len(body.blocks)
    per_block: dict[int, float] = {}

    def cost(count: int) -> float:  # of one block; all are alike
        if count not in per_block:
            per_block[count] = block_flops(body, count)
        return per_block[count]

    rest = whole - blocks * cost(tokens)

    def counts(share: float) -> tuple[int, ...]:
        found, left = [], float(tokens - own)
        for _ in points:
            left *= share
            found.append(own + max(1, round(left)))
        return tuple(found)

    def spent(kept: tuple[int, ...]) -> float:
        total, at = rest, tokens
        for index in range(blocks):
            total += cost(at)
            if index in points:
                at = kept[points.index(index)]
        return total / whole

    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(counts(middle)) < flops else (low, middle)
    least = spent(counts(0.0))
    if least > flops:
        raise ConfigError(
            f"the points {points} cannot bring the model to {flops:.0%} of its FLOPs",
            found=f"{least:.0%} with a single token left",
            do="prune at earlier blocks, or ask for more FLOPs",
        )
    return min(counts(low), counts(high), key=lambda kept: abs(spent(kept) - flops))


def block_flops(body: Anatomy, tokens: int) -> float:
    """FLOPs of the matrix products of one block (the first) on a sequence of so many tokens."""
    block = body.blocks[0]
    maps = (block.attention.query, block.attention.key, block.attention.value, block.attention.output)
    linear = sum(weight.numel() for weight in maps) + block.ffn.active_parameters()
    width = block.attention.num_heads * (block.attention.head_dim.size + block.attention.value_dim.size)
    return float(2 * tokens * (linear + width * tokens))

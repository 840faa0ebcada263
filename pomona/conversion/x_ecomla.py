"""X-EcoMLA: turn a trained model's attention into latent attention by the SVD of its own projections.

Source: Li et al., "X-EcoMLA: Upcycling Pre-Trained Attention into MLA for Efficient and Extreme KV Compression", 2025,
arXiv:2503.11132, Sec. 3 (initialisation, static and dynamic ranks); code: AMD-AIG-AIMA/AMD-Hybrid-Models.
Implements: for each block with keys W_k and values W_v, each head repeated for the query heads that share it, the joint
    SVD [W_k; W_v] = U S V^T. The latent is c = S V^T x, its largest r directions; a head's key without rotation is its
    rows of U times c, and so is its value. One rotated key for all heads is the mean over heads of the rows of W_k that
    turn. Queries keep their map, or are factored likewise (`query_rank`): W_q = U S V^T. Scores are divided by
    sqrt(d_nope + d_rope), which is the width of the source's heads. A dynamic rank is the number of leading singular
    values whose squares together make up at most a share `energy` of all, rounded up to a multiple of 8. W_o, norms,
    feed-forwards, embeddings and head are copied. Generation keeps c and the rotated key: r + d_rope numbers for each
    token and block, in place of 2 G d_h.
    The loss is repaired by `distil` with `kd` from the source, or from a larger model with the same tokenizer.
Deviations: transformers' class has an RMSNorm on each latent, and the method has none. One feature of the latent is a
    constant M, the bias of its map; the norm's divisor is then sqrt((|c|^2 + M^2) / r), its gains multiply by
    M / sqrt(r), and c comes out less by |c|^2 / (2 M^2) of itself: M makes that at most 1e-6. So a latent of `rank` r
    has r - 1 directions; the constant also carries the biases of keys, values and queries. (Biases of queries need a
    latent of queries: without `query_rank` they get one of full rank.) The class has one rank for all blocks: a dynamic
    rank is the largest that any block asks for, and one more.
    `pairs`: rotary positions turn features i and i + d_h / 2 of a head together, at its own frequency. The authors take
    the last d_rope features of each head as they lie (`last`), so that turned queries and keys are not what they were;
    `fast` takes the first, fastest pairs whole, `spread` every (d_h / d_rope)-th pair, both with their own frequencies.
Use when: the cache, not the weights, limits how long or how many texts are generated at once. Cost: an SVD per block,
    then a distillation of some percent of the tokens of pre-training.
Relations: `kd` and `minilm` repair it. Pruned or quantized caches keep the attention and drop what is in it.
Limits: decoders like Llama (Mistral, Qwen2, Phi-3): one norm before each part, gated feed-forward, whole heads turned,
    no windows, no norms of queries and keys. All blocks are converted: no class has both kinds, so the hybrid models of
    the paper are left out. The converted model computes something else than the source, as every block loses all but
    one of its rotated keys. M may exceed what float16 can hold: use bfloat16 or float32.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, Attention, Norm, Weight
from pomona.anatomy.block import Latent
from pomona.anatomy.latent import LatentSizes, become_, require_twin, rotary_of, twin
from pomona.anatomy.probes.check import difference
from pomona.conversion.report import ConversionReport, answers
from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError

Pairs = Literal["last", "fast", "spread"]
SHRINKS = 1e-6
"""By which part of itself the norm makes a latent too small, at most, when it is converted."""
MULTIPLE = 8


class XEcomlaConfig(MethodConfig):
    """Turn attention into latent attention by SVD of its own projections, then repair it by distillation."""

    method: Literal["x-ecomla"] = "x-ecomla"
    rank: int | None = Field(default=None, ge=2)
    """Features of the latent of keys and values, one of them the constant. Default: what `energy` asks for."""
    energy: float = Field(default=0.95, gt=0.0, le=1.0)
    """Without `rank`: the share of the squared singular values that the kept ones may make up, in each block."""
    query_rank: int | None = Field(default=None, ge=2)
    """Features of the latent of queries. Default: none, queries keep their map."""
    rotary: PositiveInt | None = None
    """Features of the rotated key, even; as many of each head's are no longer compared one by one. Default: half a
    head, as in the paper's 32 of 64."""
    pairs: Pairs = "last"
    """Which features of a head turn: the `last`, as they lie (the paper); or whole pairs with their own frequencies,
    the `fast` ones, or `spread` over all."""
    init: Literal["svd", "random"] = "svd"
    """`random`: queries, keys and values as the class initialises them, as a baseline."""
    seed: int = 0
    """Of a random initialisation."""

    def apply_(self, model: Any) -> XEcomlaReport:
        """Convert `model` in place; see `x_ecomla_`."""
        return x_ecomla_(model, self)


@dataclass(frozen=True, kw_only=True)
class XEcomlaReport(ConversionReport):
    """What became of the attention.

    Args:
        rank: features of the latent of keys and values.
        energy: in each block, the share of the squared singular values of keys and values that was kept; empty for a
            model without values or with a random initialisation.
    """

    rank: int
    energy: tuple[float, ...]


@dataclass(frozen=True)
class Factors:
    """A linear map as up @ down: (O, R) with orthonormal columns, (R, I), and the R singular values, falling."""

    up: Tensor
    down: Tensor
    singular: Tensor

    def kept(self, rank: int) -> Factors:
        """The best approximation of this rank; its squared error is the sum of the squares of the other values."""
        return Factors(self.up[:, :rank], self.down[:rank], self.singular[:rank])


def factored(weight_OI: Tensor, repeats: int = 1) -> Factors:
    """W = U (S V^T), in float64.

    Args:
        repeats: the rows stand for so many equal ones each: their factors are the same, the singular values larger by
            the root, and `up` has the rows once.
    Example:
        >>> W = torch.randn(6, 4, dtype=torch.float64)
        >>> twice, F = torch.linalg.svdvals(torch.cat([W, W])), factored(W, repeats=2)
        >>> bool(torch.allclose(F.singular, twice)), bool(torch.allclose(F.up @ F.down, W))
        (True, True)
    """
    up, singular, basis = torch.linalg.svd(weight_OI.double(), full_matrices=False)
    singular, up = singular * repeats**0.5, up / repeats**0.5
    return Factors(up, singular[:, None] * basis, singular)


def dynamic_rank(singular_R: Tensor, energy: float) -> int:
    """How many leading singular values keep a share of at most `energy` of the squares, at least 1, rounded up to a
    multiple of 8, and at most all.

    Example:
        >>> dynamic_rank(torch.tensor([3.0, 1.0] + 20 * [0.1]), 0.95), dynamic_rank(torch.ones(20), 1.0)
        (8, 20)
    """
    shares = singular_R.double().square().cumsum(0)
    within = int((shares <= energy * shares[-1] * (1 + 1e-12)).sum())
    return min(math.ceil(max(within, 1) / MULTIPLE) * MULTIPLE, len(singular_R))


def turned_features(head_dim: int, turned: int, pairs: Pairs) -> Tensor:
    """(turned,) int64: which features of a head become those that turn; those of pair j are j and j + turned / 2.

    Example:
        >>> [turned_features(8, 4, pairs).tolist() for pairs in ("last", "fast", "spread")]
        [[4, 5, 6, 7], [0, 1, 4, 5], [0, 2, 4, 6]]
    """
    if pairs == "last":
        return torch.arange(head_dim - turned, head_dim)
    first = torch.arange(turned // 2) * (1 if pairs == "fast" else head_dim // turned)
    return torch.cat([first, first + head_dim // 2])


def base_of(theta: float, head_dim: int, turned: int, pairs: Pairs) -> float:
    """The base of frequencies with which pair j of `turned` features turns as pairs did in the source.

    There pair i has theta ** (-2 i / head_dim). Every (head_dim / turned)-th of them needs no other base, the first
    ones do; the last features of the paper keep the base and change their frequencies.
    """
    return theta ** (turned / head_dim) if pairs == "fast" else theta


@torch.no_grad()
def x_ecomla_(model: Any, config: XEcomlaConfig | None = None) -> XEcomlaReport:
    """Convert a model in place: the object stays, its class becomes that of a model with latent attention.

    Args:
        model: a transformers model, or its anatomy, which is then brought up to date.
        config: ranks and rotary features. Without values (on the meta device) `energy` is taken to keep everything.
    Raises:
        UnsupportedModel: the model differs from that class in more than queries, keys and values.
        ConfigError: a rank or a number of features that its heads do not have. Nothing has changed then.
    """
    start = time.perf_counter()
    config = config or XEcomlaConfig()
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    require_twin(body, config.method)
    attentions = body.attentions()
    turned = _turned(attentions[0], config)
    shadow = next(body.model.parameters()).is_meta
    joint = [] if shadow else [_joint(attention) for attention in attentions]
    rank = _rank(attentions[0], joint, config)
    query_rank = _query_rank(body, config)
    theta = base_of(float(rotary_of(body)["rope_theta"]), attentions[0].head_dim.size, turned, config.pairs)
    parameters, cache, expected = body.parameter_count(), body.kv_cache_bytes(1), answers(body)
    with anatomy.touched(body, config.method):
        other = twin(body, LatentSizes(rank, query_rank, turned, theta), config.seed)
        if config.init == "svd":
            for factors, old, new in zip(joint, body.blocks, other.blocks, strict=not shadow):
                assert old.norm_attention is not None
                _write(old.attention, new.attention, factors, old.norm_attention, config.pairs)
        become_(body, other)
    found = answers(body)
    return XEcomlaReport(
        parameters_before=parameters,
        parameters_after=body.parameter_count(),
        hidden_before=body.hidden_size,
        hidden_after=body.hidden_size,
        difference=None if found is None or expected is None else difference(found.double(), expected.double()),
        loads_with=body.loads_with,
        seconds=time.perf_counter() - start,
        cache_before=cache,
        cache_after=body.kv_cache_bytes(1),
        rank=rank,
        energy=tuple(_share(factors, rank) for factors in joint) if config.init == "svd" else (),
    )


def _joint(attention: Attention) -> Factors:
    """Keys and values of each key-value head once, factored as if they were repeated for its query heads."""
    both = torch.cat([attention.key.read(), attention.value.read()])
    return factored(both, attention.num_heads // attention.num_kv_heads)


def _share(factors: Factors, rank: int) -> float:
    squares = factors.singular.square()
    return float(squares[: rank - 1].sum() / squares.sum())


# ---- sizes


def _turned(attention: Attention, config: XEcomlaConfig) -> int:
    width = attention.head_dim.size
    turned = width // 2 if config.rotary is None else config.rotary
    uneven = config.pairs == "spread" and width % turned
    if turned % 2 or turned > width or uneven:
        raise ConfigError(
            f"{turned} features of a head of {width} cannot be those that turn",
            where="rotary",
            needs="an even number, at most all" + (", that divides them" if config.pairs == "spread" else ""),
            found=f"{turned} with pairs {config.pairs!r}",
            do="choose another number",
        )
    return turned


def _rank(attention: Attention, joint: list[Factors], config: XEcomlaConfig) -> int:
    """Features of the latent of keys and values: the directions that are kept, and the constant."""
    full = min(attention.key.shape[0] + attention.value.shape[0], attention.key.shape[1])
    if config.rank is None:
        return 1 + max((dynamic_rank(factors.singular, config.energy) for factors in joint), default=full)
    return _within(config.rank, full, "rank", "keys and values")


def _query_rank(body: Anatomy, config: XEcomlaConfig) -> int | None:
    """Features of the latent of queries; None where they keep their map."""
    query = body.blocks[0].attention.query
    if config.query_rank is not None:
        return _within(config.query_rank, min(query.shape), "query_rank", "queries")
    biased = any(attention.query.bias is not None for attention in body.attentions())
    return min(query.shape) + 1 if biased else None


def _within(rank: int, full: int, name: str, what: str) -> int:
    if rank > full + 1:
        raise ConfigError(
            f"a latent of {rank} features is more than {what} need",
            where=name,
            needs=f"at most {full + 1}: {full} directions, in which it loses nothing, and a constant",
            do=f"lower {name}",
        )
    return rank


# ---- values


def _write(old: Attention, new: Attention, joint: Factors, norm: Norm, pairs: Pairs) -> None:
    """Give latent attention the maps of an attention, as far as its ranks go."""
    key_value = new.key_value_latent
    assert key_value is not None
    width, groups = old.head_dim.size, old.num_heads // old.num_kv_heads
    turned = turned_features(width, new.rotary, pairs)
    others = torch.tensor([feature for feature in range(width) if feature not in turned.tolist()], dtype=torch.int64)

    def of_heads(rows: Tensor, features: Tensor, repeats: int = groups) -> Tensor:
        """Some features of each query head, heads one after another, of rows that lie by key-value head."""
        return _by_head(rows, width)[:, features].repeat_interleave(repeats, 0).flatten(0, 1)

    key, value = joint.kept(key_value.rank - 1).up.chunk(2)
    shared = _by_head(old.key.read().double(), width)[:, turned].mean(0)
    key_bias, value_bias = (_bias(weight) for weight in (old.key, old.value))
    new.key.write_(of_heads(_with_bias(key, key_bias), others))
    new.value.write_(of_heads(_with_bias(value, value_bias), torch.arange(width)))
    shared_bias = _by_head(key_bias, width)[:, turned].mean(0)
    _write_latent(key_value, joint, norm, shared, shared_bias)

    # Scores are divided by the root of a head's width again; a source that divides otherwise is scaled here.
    query, query_bias = (x * (old.scaling / new.scaling) for x in (old.query.read().double(), _bias(old.query)))
    order = torch.cat([others, turned])
    if new.query_latent is None:
        new.query.write_(of_heads(query, order, 1))
        return
    factors = factored(query)
    up = factors.kept(new.query_latent.rank - 1).up
    new.query.write_(of_heads(_with_bias(up, query_bias), order, 1))
    _write_latent(new.query_latent, factors, norm, query[:0], query_bias[:0])


def _by_head(rows: Tensor, width: int) -> Tensor:
    """(heads, width, ...) of rows that lie head after head."""
    return rows.reshape(-1, width, *rows.shape[1:])


def _bias(weight: Weight) -> Tensor:
    bias = weight.bias_read()
    return weight.read().new_zeros(weight.shape[0]).double() if bias is None else bias.double()


def _with_bias(up_OR: Tensor, bias_O: Tensor) -> Tensor:
    """What reads a latent whose last feature is 1."""
    return torch.cat([up_OR, bias_O[:, None]], 1)


def _write_latent(latent: Latent, factors: Factors, norm: Norm, shared: Tensor, shared_bias: Tensor) -> None:
    """Write a latent's map and a norm that gives it back as it is, with a 1 after it.

    Args:
        factors: whose `down` the map follows, as far as the rank goes.
        norm: of the hidden states that the map reads; it bounds them.
        shared, shared_bias: the rows after the latent.
    """
    rank = latent.rank
    down = factors.kept(rank - 1).down
    constant = steady(down, norm.read().double(), rank)
    zeros = down.new_zeros(rank - 1)
    latent.down.write_(torch.cat([down, down.new_zeros(1, down.shape[1]), shared]))
    assert latent.down.bias is not None
    latent.down.bias.write_(torch.cat([zeros, zeros.new_tensor([constant]), shared_bias]))
    size = math.sqrt(constant**2 / rank + latent.norm.epsilon)
    latent.norm.write_(torch.cat([zeros + size, zeros.new_tensor([size / constant])]))


def steady(down_RI: Tensor, gain_I: Tensor, rank: int) -> float:
    """A constant M, a power of 2, beside which no latent c matters to a norm: |c|^2 / (2 M^2) is at most 1e-6.

    Hidden states after an RMSNorm are no longer than sqrt(I) times the gains, so that |c| is bounded.

    Args:
        rank: features of the latent; fewer than 2 leave nothing to be bounded.
    """
    longest = float(torch.linalg.matrix_norm(down_RI * gain_I, 2)) * math.sqrt(len(gain_I)) if rank > 1 else 0.0
    return float(2.0 ** math.ceil(math.log2(max(longest, 1.0) / math.sqrt(2 * SHRINKS))))

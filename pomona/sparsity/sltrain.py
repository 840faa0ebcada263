"""SLTrain: train every map as a low-rank product plus a few free entries at fixed random places.

Source: Han et al., "SLTrain: a sparse plus low-rank approach for parameter and memory efficient pretraining", NeurIPS
2024, arXiv:2406.02214.
Implements: Sec. 3: W = s B A + scatter(v, I) with s = alpha / rank, B (R, r) zero, A (r, C) and v uniform within
    1 / sqrt(C), I the first floor(delta R C) places of a random permutation, sorted, never changed; Algorithm 1: W is
    built for each pass and not kept for the backward pass, which builds it again:
    dx = dY W, dW = dY^T x, dB = dW (s A)^T, dA = s B^T dW, dv = dW[I].
Deviations: fused maps (query, key and value in one parameter) are one matrix. Without free entries B is normal, so that
    the map begins as large as A is: with zeros nothing would ever learn. Left out: the trainable scale of the
    official code, and 8-bit Adam with updates layer by layer, which save more memory but are other methods.
Use when: memory for weights, gradients and optimizer states is what limits pre-training. In a recipe:
    `pretrain: {sparsity: {method: sltrain, rank: 128}}` with `weight_decay: 0` and a rate of about 3e-3, the paper's
    for all sizes. Cost: a product of rank r for each map and pass, twice; (R + C) r + delta R C trained numbers in
    place of R C. What is saved in the end are dense weights.
Relations: delta -> 0 is plain low rank, whose quality collapses; `spdf` trains some entries and no product.
Limits: needs linear maps with a matrix of their own: experts that share one parameter are refused. A rank from half of
    the smaller side on saves nothing. Loading a model to train it on so is left out: it starts from scratch. Maps that
    multiply each other (gate and up, query and key) learn nothing at a feature for which neither has a free entry at
    the start, both being zero there: at widths below about 100 take a larger delta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from pomona import anatomy
from pomona.anatomy import Anatomy, Weight
from pomona.ground.config import MethodConfig
from pomona.ground.console import warn
from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.sparsity.weight_scores import prunable

PLACE = "sparse_plus_low_rank"
"""Name of the module that holds the factors while a model is trained."""


class SltrainConfig(MethodConfig):
    """Train sparse plus low-rank maps."""

    method: Literal["sltrain"] = "sltrain"
    from_scratch: ClassVar[bool] = True
    rank: PositiveInt = 128
    """Of the product B A. The paper: 128 at 60 M parameters, 256 at 130 M and 350 M, 512 at 1 B, 1024 at 7 B."""
    alpha: PositiveFloat = 32.0
    """The product is scaled by alpha / rank. The paper: 32 at 60 M, 16 at 130 M and 350 M, 8 from 1 B on."""
    delta: float = Field(default=0.03, ge=0.0, lt=1.0)
    """Share of the entries that are free. The paper: 0.03, and 0.05 at 7 B."""
    roles: tuple[str, ...] = ()
    """Which maps: parts (ffn) or roles (attention.query). Default: all in the blocks."""
    seed: NonNegativeInt = 0
    """Of places and initial values, beside the run's."""

    def check(self, body: Anatomy) -> None:
        """Raise unless every map can be trained so, and at a rank below its smaller side. Computes nothing."""
        for weight in targets_of(body, self.roles):
            outputs, inputs = layer_shape(weight)
            if self.rank >= min(outputs, inputs):
                raise ConfigError(
                    f"rank {self.rank} is not below the smaller side of {weight.name}",
                    where="rank",
                    found=f"{outputs} x {inputs}",
                    do=f"choose at most {min(outputs, inputs) // 2}",
                )

    def start_(self, model: Any, seed: int = 0) -> Factored:
        """Put factors in the place of every map of `model`, drawn from the seed."""
        body = anatomy.of(model)
        self.check(body)
        return factor_(body, self, self.seed + seed)


class Factors(nn.Module):
    """What is trained of one map: B (R, r), A (r, C), v (nnz); and the places I (nnz) of v in the flattened map."""

    stands_for_maps = True
    places: Tensor

    def __init__(self, shape: tuple[int, int], config: SltrainConfig, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = shape
        bound = 1.0 / math.sqrt(inputs)
        count = math.floor(config.delta * outputs * inputs)
        self.scale = config.alpha / config.rank
        self.up = nn.Parameter(torch.zeros(outputs, config.rank))
        if not count:  # nothing else gives the map a value, and maps of zeros pass no gradient on
            self.up.data.normal_(std=1.0 / (self.scale * math.sqrt(config.rank)), generator=generator)
        self.down = nn.Parameter(torch.empty(config.rank, inputs).uniform_(-bound, bound, generator=generator))
        self.values = nn.Parameter(torch.empty(count).uniform_(-bound, bound, generator=generator))
        places = torch.randperm(outputs * inputs, generator=generator)[:count].sort().values
        self.register_buffer("places", places.to(torch.int32 if outputs * inputs < 2**31 else torch.int64))

    def dense(self) -> Tensor:
        """The whole map, (R, C)."""
        return dense_map(self.up, self.scale * self.down, self.values, self.places)


def dense_map(up_OR: Tensor, down_RI: Tensor, values_E: Tensor, places_E: Tensor) -> Tensor:
    """B A with `values` added at `places` of the flattened map: (O, I). Differentiable in all but the places."""
    product = up_OR @ down_RI
    return product.flatten().index_add(0, places_E, values_E.to(product.dtype)).view_as(product)


class SparsePlusLowRank(torch.autograd.Function):
    """x W^T for W = B A + scatter(v, I), without keeping W for the backward pass. `down` is scaled already.

    The map is built in the factors' own format, products with it run in that of the inputs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, down: Tensor, values: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(x, up, down, values, places)
        with torch.autocast(x.device.type, enabled=False):
            return functional.linear(x, dense_map(up, down, values, places).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, up, down, values, places = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            grad = grad.to(x.dtype)
            weight = dense_map(up, down, values, places).to(x.dtype)
            d_x = grad @ weight if ctx.needs_input_grad[0] else None
            del weight
            d_weight = (grad.flatten(0, -2).T @ x.flatten(0, -2)).to(up.dtype)
            return d_x, d_weight @ down.T, up.T @ d_weight, d_weight.flatten()[places.long()], None


class FactoredLinear(nn.Linear):
    """A linear layer that computes with factors, which lie elsewhere."""

    def forward(self, inputs: Tensor) -> Tensor:
        return _apply(self, inputs)


class FactoredConv1D(Conv1D):  # type: ignore[misc]
    """The same for the layer that stores its map as (inputs, outputs)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return _apply(self, inputs)


CLASSES: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: FactoredLinear, Conv1D: FactoredConv1D}


def _apply(layer: Any, inputs: Tensor) -> Tensor:
    factors: Factors = vars(layer)["factors"]
    device = inputs.device.type
    if torch.is_autocast_enabled(device):
        inputs = inputs.to(torch.get_autocast_dtype(device))
    arguments = (inputs, factors.up, factors.scale * factors.down, factors.values, factors.places)
    outputs: Tensor = SparsePlusLowRank.apply(*arguments)  # type: ignore[no-untyped-call]
    return outputs if layer.bias is None else outputs + layer.bias.to(outputs.dtype)


@dataclass(frozen=True)
class Factored:
    """A model that computes with factors.

    Attributes:
        model: its factors are parameters of `model.sparse_plus_low_rank`, and the only ones of its maps.
        layers: the layers whose weights they stand for; their `weight` has a shape and no content.
    """

    continues: ClassVar[bool] = False
    model: Any
    layers: Sequence[Any]

    def holding(self, body: Anatomy, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        return nullcontext()

    def finish_(self, tokens: int = 0) -> dict[str, Any]:
        """Write the whole maps into ordinary layers, and count what was trained in their place."""
        trained = sum(parameter.numel() for parameter in getattr(self.model, PLACE).parameters())
        whole = 0
        for layer in self.layers:
            factors: Factors = vars(layer).pop("factors")
            standing = vars(layer).pop("weight")
            dense = factors.dense().detach()
            layer.__class__ = next(plain for plain, own in CLASSES.items() if own is type(layer))
            layer.weight = nn.Parameter((dense.T if isinstance(layer, Conv1D) else dense).contiguous())
            assert layer.weight.shape == standing.shape
            whole += standing.numel()
        delattr(self.model, PLACE)
        return {"factored": {"trained": trained, "dense": whole}}


def targets_of(body: Anatomy, roles: Sequence[str]) -> list[Weight]:
    """One weight of each layer that is factored.

    Raises:
        UnsupportedModel: a map has no layer of its own.
    """
    found = {id(weight.owner): weight for weight in prunable(body, roles)}
    for weight in found.values():
        if type(weight.owner) not in CLASSES or weight.attribute != "weight":
            raise UnsupportedModel(
                f"sltrain cannot factor {weight.name}",
                needs="a linear layer with a matrix of its own",
                found=type(weight.owner).__name__,
                do="name other `roles`, or choose `spdf`, which takes every map",
            )
    return list(found.values())


def layer_shape(weight: Weight) -> tuple[int, int]:
    """(outputs, inputs) of the whole layer that holds a weight."""
    rows, columns = weight.parameter.shape
    return (columns, rows) if weight.transposed else (rows, columns)


def factor_(body: Anatomy, config: SltrainConfig, seed: int) -> Factored:
    """Put factors in the place of the maps of a model; see `Factored`."""
    model, layers = body.model, []
    holder = nn.ModuleDict()
    targets = targets_of(body, config.roles)
    smallest = min(min(layer_shape(weight)) for weight in targets)
    if config.rank >= smallest / 2:
        warn(f"rank {config.rank} is half of the smallest side ({smallest}) or more: little or nothing is saved")
    for place, weight in enumerate(targets):
        layer: Any = weight.owner
        generator = torch.Generator().manual_seed((seed * 1_000_003 + place) % (1 << 63))
        factors = Factors(layer_shape(weight), config, generator).to(layer.weight)
        holder[str(place)] = factors
        standing = nn.Parameter(layer.weight.new_zeros(()).expand(layer.weight.shape), requires_grad=False)
        del layer.weight
        # Past `nn.Module`: what has no content is no parameter of the model, and the factors have one home.
        vars(layer).update(weight=standing, factors=factors)
        layer.__class__ = CLASSES[type(layer)]
        layers.append(layer)
    setattr(model, PLACE, holder)
    return Factored(model, layers)


def sltrain_(model: Any, config: SltrainConfig | None = None, *, seed: int = 0) -> Factored:
    """Make a new model compute with factors, in place; train it, then call `finish_` of what is returned."""
    return (config or SltrainConfig()).start_(model, seed)

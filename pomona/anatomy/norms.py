"""Norms without means: RMSNorms in the places of LayerNorms, which no field of a configuration can ask for.

Where nothing that is written into a residual stream has a mean over its features, a LayerNorm only divides by the root
of the mean square: it is an RMSNorm. A model in that form is recorded beside the fields of its configuration,

    "pomona": {"format": 2, "shape": "gpt2", "sizes": {}, "norms": {"kind": "rms", "epsilon": 1e-05, "biases": "kept"}}

and `apply_` gives a newly built model that form before its weights are loaded. Biases of norms are in the biases of the
maps that read them: "moved" all of them, for which maps without a bias get one, or "kept" where a map has none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from pomona.anatomy import sizes as sizing
from pomona.anatomy.weight import Norm, Weight
from pomona.ground.errors import DataError, UnsupportedModel

if TYPE_CHECKING:
    from pomona.anatomy.body import Anatomy


@dataclass(frozen=True)
class Norms:
    """What a configuration records about norms that were replaced.

    Args:
        epsilon: what is added to the mean square.
        biases: "moved" into the maps that read the norms, all of them, or "kept" by norms that a map without a bias
            reads.
        kind: of the norms.
    """

    epsilon: float
    biases: Literal["moved", "kept"]
    kind: Literal["rms"] = "rms"

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


class BiasedRMSNorm(nn.RMSNorm):
    """x / rms(x) * weight + bias."""

    def __init__(self, size: int, eps: float, **options: Any) -> None:
        super().__init__(size, eps, **options)
        self.bias = nn.Parameter(torch.zeros(size, **options))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias


def recorded(config: Any) -> Norms | None:
    """The norms that a configuration records; None for most models.

    Raises:
        DataError: the record is not of a form that this version reads.
    """
    found = (getattr(config, sizing.RECORD, None) or {}).get("norms")
    if found is None:
        return None
    values = found if isinstance(found, dict) else {}
    epsilon, biases = values.get("epsilon"), values.get("biases")
    if values.get("kind") != "rms" or not isinstance(epsilon, float) or epsilon <= 0 or biases not in ("moved", "kept"):
        raise DataError(
            f"the norms in the configuration's {sizing.RECORD!r} cannot be read",
            needs="kind 'rms', an epsilon above 0 and biases 'moved' or 'kept'",
            found=str(found)[:200],
            do="load the model with the version of pomona that wrote it",
        )
    return Norms(epsilon, cast(Literal["moved", "kept"], biases))


def stream_norms(body: Anatomy) -> list[tuple[Norm, list[Weight]]]:
    """The norms of the residual stream of a model with one stack, each with the linear maps that read it.

    All that reads hidden features outside of the blocks reads the final norm, a tied head included.
    """
    pairs = [pair for block in body.blocks for pair in block.norm_readers()]
    if body.final_norm is not None:
        outside = [part for part in body.around.values() if isinstance(part, Weight)]
        outside += [*body.transform_parts, *([] if body.head is None else [body.head])]
        readers = [part for part in outside if part.kind == "linear" and part.axes[1].has(body.residual)]
        pairs.append((body.final_norm, readers))
    return pairs


def apply_(body: Anatomy, wanted: Norms) -> None:
    """Make every norm of the stream an RMSNorm that keeps its gain, and its bias only as `wanted` says.

    A bias that a norm has lost must be written into the biases of what reads it, of which new ones are zero.

    Raises:
        UnsupportedModel: a map without a bias is none that could have one.
    """
    pairs = stream_norms(body)
    if wanted.biases == "moved":
        _add_biases_(body, [reader for _, readers in pairs for reader in readers])
    new: dict[int, nn.Module] = {}
    for norm, readers in pairs:
        gain = norm.gain.parameter
        kept = norm.bias is not None and wanted.biases == "kept" and any(reader.bias is None for reader in readers)
        kind = BiasedRMSNorm if kept else nn.RMSNorm
        module = kind(gain.numel(), wanted.epsilon, device=gain.device, dtype=gain.dtype)
        module.weight = gain
        if isinstance(module, BiasedRMSNorm) and norm.bias is not None:
            module.bias = norm.bias.parameter
        new[id(norm.module)] = module.train(norm.module.training)
    for parent in list(body.model.modules()):
        for name, child in parent._modules.items():
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    body.refresh()


def _add_biases_(body: Anatomy, readers: list[Weight]) -> None:
    """Give every map that has none a bias of zeros."""
    bare = [reader for reader in readers if reader.bias is None]
    for reader in bare:
        if not isinstance(reader.owner, nn.Linear) or reader.attribute != "weight":
            raise UnsupportedModel(
                f"the LayerNorms of {type(body.model).__name__} cannot become RMSNorms (nothing was changed)",
                where=reader.name,
                needs="linear modules that read them, which can take over their biases",
                found=type(reader.owner).__name__,
                do="leave this model as it is",
            )
    for reader in bare:
        weight = reader.parameter
        zeros = torch.zeros(weight.shape[0], device=weight.device, dtype=weight.dtype)
        reader.owner.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)


def untie_(body: Anatomy) -> None:
    """Give a head that shares the embedding's parameter one of its own; the configuration says so."""
    head = body.head
    if head is None or "tied_head" not in body.capabilities:
        return
    shared = head.parameter
    own = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
    head.owner._parameters[head.attribute] = own
    model = body.model
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    body.refresh()

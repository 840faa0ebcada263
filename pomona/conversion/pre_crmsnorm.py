"""Pre-RMSNorm and Pre-CRMSNorm: the same function as a Pre-LayerNorm transformer, with cheaper norms.

Source: Jiang et al., "Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and Efficient Pre-LN Transformers",
NeurIPS 2023, arXiv:2305.14858, Sec. 3 and 4.
Implements: a LayerNorm removes the mean of what it reads, so nothing depends on the mean of the residual stream. What
    writes into the stream (embeddings, positions, output and down projections with their biases) is centred, W' = P W
    with P = I - 1 1^T / d. Then LayerNorm(x) = RMSNorm(x) g + b, and b moves into the biases of the maps that read it,
    c' = c + W b, where all of them have one (`rms`).
    A stream without mean lies in d - 1 dimensions. With Q (d, d - 1), columns orthonormal and orthogonal to 1, it is
    x = Q z: writers become Q^T W, readers W diag(g) Q with biases c + W b, and |z| = |x|, so that the norm is an
    RMSNorm of z with its mean over d (`crms`): z / sqrt(|z|^2 / d + eps) = s z / sqrt(mean(z^2) + s^2 eps) with
    s^2 = d / (d - 1).
Deviations: the paper drops the last coordinate instead, so that its CRMSNorm adds (sum z)^2 to the sum of squares. The
    basis Q turns the same stream; the norm is then any library's RMSNorm, with the factor in its gain. In `rms` the
    gains stay in the norms. Left out: training with weights that are centred at every step; a converted model trains
    on as the RMSNorm model that it is (in `rms` gradients may bring a mean back, which is then part of the stream).
Use when: a Pre-LayerNorm model is run on kernels whose RMSNorm is faster than their LayerNorm, or is to be handled as
    an RMSNorm model. The paper saves 1 to 10% of the time. Cost: one pass over the weights; a tied head becomes a
    matrix of its own (its embedding is centred, the head is not); in `crms` readers without a bias get one.
Relations: the change of basis is the one by which SliceGPT rotates RMSNorm models; here it cuts exactly one dimension.
Limits: one stack with LayerNorms before each part (sequential or parallel) and a final norm that linear maps alone
    read. Refused: RMSNorms, norms after a part or after the embeddings, models without a head, fixed positions added to
    the stream. Dropout on what is written brings a mean back while training. d - 1 is an odd number of features, which
    kernels may like less. No class of transformers builds these forms: the folder loads with `anatomy.load`. Elsewhere
    `rms` is built with LayerNorms again, which compute the same there; `crms` does not fit and is refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pomona import anatomy
from pomona.anatomy import Anatomy, Norm, Weight, norms, sizes
from pomona.anatomy.architecture import restored_on_error
from pomona.anatomy.probes.check import difference
from pomona.conversion.report import ConversionReport, answers
from pomona.ground.config import MethodConfig
from pomona.ground.errors import UnsupportedModel

Affine = Mapping[str, tuple[Tensor, Tensor | None]]
UNEQUAL = {torch.float64: 1e-4, torch.float32: 1e-3}
"""A relative difference of outputs that rounding does not explain; 0.1 for shorter numbers. Norms of some models
compute in float32 whatever their dtype is."""


class PreCrmsnormConfig(MethodConfig):
    """Turn LayerNorms into RMSNorms, and drop the dimension of the residual stream that they made useless."""

    method: Literal["pre-crmsnorm"] = "pre-crmsnorm"
    form: Literal["rms", "crms"] = "crms"
    """`rms`: centred writers and RMSNorms at the present width. `crms`: also one hidden feature less."""

    def apply_(self, model: Any) -> ConversionReport:
        """Convert `model` in place; see `pre_crmsnorm_`."""
        return pre_crmsnorm_(model, self)


def centred(values: Tensor, dim: int) -> Tensor:
    """`values` minus their mean along `dim`, P W."""
    return values - values.mean(dim, keepdim=True)


def basis_without_mean(size: int) -> Tensor:
    """Q: (size, size - 1) float64, orthonormal columns whose sums are zero.

    The Householder reflection that takes the last unit vector to 1 / sqrt(size) takes the others to these columns.

    Example:
        >>> Q = basis_without_mean(4)
        >>> bool((Q.T @ Q - torch.eye(3)).abs().max() < 1e-15), bool(Q.sum(0).abs().max() < 1e-15)
        (True, True)
    """
    normal = torch.full((size,), -(size**-0.5), dtype=torch.float64)
    normal[-1] += 1.0
    normal /= normal.norm()
    return (torch.eye(size, dtype=torch.float64) - 2.0 * torch.outer(normal, normal))[:, :-1]


@torch.no_grad()
def pre_crmsnorm_(model: Any, config: PreCrmsnormConfig | None = None) -> ConversionReport:
    """Convert a model in place. It computes the same as before, or it has not changed.

    Args:
        model: a transformers model, or its anatomy, which is then brought up to date.
        config: the form; Pre-CRMSNorm by default.
    Raises:
        UnsupportedModel: something other than LayerNorms reads the stream, or other than maps and tables writes it.
    """
    start = time.perf_counter()
    config = config or PreCrmsnormConfig()
    body = model if isinstance(model, Anatomy) else anatomy.of(model)
    body.require("single_stack", "layernorm", "residual_stream", "dense_ffn", "free_residual", method=config.method)
    hidden, parameters = body.hidden_size, body.parameter_count()
    expected = answers(body)
    error: float | None = None
    try:
        with anatomy.touched(body, config.method), restored_on_error(body.model):
            norms.untie_(body)
            _convert_(body, compress=config.form == "crms")
            if expected is not None:
                error = _require_equal(body, expected)
    except BaseException:
        body.refresh()
        raise
    return ConversionReport(
        parameters_before=parameters,
        parameters_after=body.parameter_count(),
        hidden_before=hidden,
        hidden_after=body.hidden_size,
        difference=error,
        loads_with=body.loads_with,
        seconds=time.perf_counter() - start,
    )


def _convert_(body: Anatomy, *, compress: bool) -> None:
    """Replace the norms and write what follows from it."""
    pairs = norms.stream_norms(body)
    _refuse_other_norms(body, pairs)
    _roles(body)
    size = body.hidden_size
    epsilon = pairs[0][0].epsilon * (size / (size - 1) if compress else 1.0)
    affine = {norm.gain.name: (norm.read().double(), _read(norm.bias)) for norm, _ in pairs}
    wanted = norms.Norms(epsilon, "moved" if compress else "kept")
    norms.apply_(body, wanted)
    record = sizes.record_of(body, sizes.recorded(body.config), wanted.asdict())
    setattr(body.config, sizes.RECORD, record)
    basis = basis_without_mean(size) if compress else None
    with body.edit() as edit:
        if compress:
            edit.keep(body.residual, range(size - 1))
        for part, values in [*_reading(body, affine, basis), *_writing(body, basis)]:
            edit.write(part, values.to(part.parameter.dtype))


def _read(weight: Weight | None) -> Tensor | None:
    return None if weight is None else weight.read().double()


def _reading(body: Anatomy, affine: Affine, basis: Tensor | None) -> Iterator[tuple[Weight, Tensor]]:
    """The values, in float64, of the norms and of what reads them.

    Args:
        affine: gain and bias of each norm before, by the name of its gain.
        basis: Q, or None where the stream stays as wide as it is.
    """
    size = body.hidden_size
    for norm, readers in norms.stream_norms(body):
        gain, bias = affine[norm.gain.name]
        yield norm.gain, gain if basis is None else gain.new_full((size - 1,), (size / (size - 1)) ** 0.5)
        for reader in readers:
            # The head may read several vectors of hidden features at once (a class token beside a mean).
            map_OXD = reader.read().double().reshape(reader.shape[0], -1, size)
            if bias is not None and norm.bias is None and reader.bias is not None:
                yield reader.bias, reader.bias.read().double() + (map_OXD @ bias).sum(1)
            if basis is not None:
                yield reader, ((map_OXD * gain) @ basis.to(gain)).flatten(1)


def _writing(body: Anatomy, basis: Tensor | None) -> Iterator[tuple[Weight, Tensor]]:
    """The values, in float64, of what writes into the stream. LayerScale moves into the maps that it scales."""
    scaled: dict[object, Tensor] = {}
    for block in body.blocks:
        for scale, writer in ((block.scale_attention, block.attention.output), (block.scale_ffn, block.ffn.down)):
            if scale is not None:
                scaled |= {part.key: scale.read().double() for part in writer.weights()}
    for part, role in _roles(body):
        if role == "scale":
            yield part, torch.ones_like(part.read()[: body.hidden_size if basis is None else basis.shape[1]])
        elif role == "writes":
            dim = 1 if part.kind == "table" else 0
            written = part.read().double().movedim(dim, -1) * scaled.get(part.key, 1.0)
            written = centred(written, -1) if basis is None else written @ basis.to(written)
            yield part, written.movedim(-1, dim)


# ---- what is refused

Role = Literal["norm", "reads", "writes", "scale"]


def _roles(body: Anatomy) -> list[tuple[Weight, Role]]:
    """Every weight with hidden features, once, and what it does to the stream.

    Raises:
        UnsupportedModel: some do something else, or are not known.
    """
    pairs = norms.stream_norms(body)
    stands = {part.key for norm, _ in pairs for part in norm.weights()}
    readers = {reader.key for _, read in pairs for reader in read}
    scales = {
        part.key for block in body.blocks for part in (block.scale_attention, block.scale_ffn) if part is not None
    }
    parts = {part.key: part for part in body.parts() if any(axis.has(body.residual) for axis in part.axes)}
    # Of the vectors over hidden features, only biases of maps and learned tokens are added to the stream.
    added = {part.bias.key for part in parts.values() if part.bias is not None}
    added |= {part.key for part in body.around.values() if isinstance(part, Weight) and part.kind == "vector"}

    def role(part: Weight) -> Role | None:
        first, last = part.axes[0], part.axes[-1]
        if part.kind == "vector":
            known = {
                **dict.fromkeys(added, "writes"),
                **dict.fromkeys(scales, "scale"),
                **dict.fromkeys(stands, "norm"),
            }
            return known.get(part.key)  # type: ignore[return-value]
        if part.kind == "table":
            return "writes" if last.spaces == (body.residual,) and not first.has(body.residual) else None
        if last.has(body.residual):
            alone = part.key in readers and last.spaces[-1] == body.residual and not first.has(body.residual)
            return "reads" if alone else None
        return "writes" if first.spaces == (body.residual,) else None

    found = [(part, role(part)) for part in parts.values()]
    others = [*body.unseen, *(f"{part.name} ({part.role})" for part, role in found if role is None)]
    if others:
        raise _refusal(body, ", ".join(others[:3]))
    return [(part, role) for part, role in found if role is not None]


def _refuse_other_norms(body: Anatomy, pairs: Sequence[tuple[Norm, list[Weight]]]) -> None:
    """Refuse norms that nothing reads, as the last of a model without a head, and several epsilons."""
    lonely = [f"{norm.gain.name}, which no linear map reads" for norm, readers in pairs if not readers]
    epsilons = sorted({norm.epsilon for norm, _ in pairs})
    if lonely or body.final_norm is None or len(epsilons) > 1:
        raise _refusal(body, (lonely or ["no final norm" if body.final_norm is None else f"epsilons {epsilons}"])[0])


def _refusal(body: Anatomy, found: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"pre-crmsnorm cannot run on {type(body.model).__name__} (nothing was changed)",
        needs="a stream that maps and tables write, and that equal LayerNorms alone read, each for linear maps",
        found=found,
        do="choose a Pre-LayerNorm model with a head and without a norm after its embeddings",
    )


# ---- what is proven


def _require_equal(body: Anatomy, expected: Tensor) -> float:
    """The difference of the outputs; refused when rounding does not explain it."""
    found = answers(body)
    assert found is not None
    error = difference(found.double(), expected.double())
    if error > UNEQUAL.get(body.dtype, 0.1):
        raise _refusal(body, f"outputs that differ by {error:.1e} of the largest: something else reads the stream")
    return error

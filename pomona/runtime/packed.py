"""Weights that stay packed: reading the compressed-tensors layout, and a linear module that computes with it.

A row of a pack-quantized weight holds codes of a few bits, 32-bit word by 32-bit word, lowest bits first; a code stands
for (code - 2**(bits - 1) - zero) * scale of its group. Four bits are kept exactly as they lie in the file; fewer bits
fit into four, so they are repacked; more are decoded once to dense weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from torch import Tensor, nn
from torch.nn import functional

from pomona.ground.errors import ConfigError, UnsupportedModel

BITS = 4
KERNEL_GROUPS = (32, 64, 128, 256)
"""Group sizes of torch's int4 product on the CPU."""
KERNEL_ROWS = 8
"""From this many input rows on, the weight is decoded once and multiplied densely: that is not slower then."""


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A linear weight in 4 bits.

    Args:
        words: (O, I / 8 rounded up) int32, eight codes to a word, offset by 8.
        scale: (O, G) float32 or bfloat16.
        zero: (O, G) int8 in [-8, 7], or None when all are 0.
        order: (I,) int32, which input each column reads, when the columns were sorted by group; else None.
        group_size: columns that share a scale; the last group may be shorter.
        columns: I.
    """

    words: Tensor
    scale: Tensor
    zero: Tensor | None
    order: Tensor | None
    group_size: int
    columns: int

    @property
    def rows(self) -> int:
        return self.words.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        parts = (self.words, self.scale, self.zero, self.order)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def codes(self) -> Tensor:
        """(O, I) int8 in [-8, 7], columns in the stored order."""
        codes: Tensor = unpack_from_int32(self.words, BITS, torch.Size((self.rows, self.columns)))
        return codes

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """(O, I) weight, columns in the order of the inputs."""
        group = torch.arange(self.columns) // self.group_size
        values = self.codes().to(torch.float32)
        if self.zero is not None:
            values -= self.zero.to(torch.float32)[:, group]
        values *= self.scale.to(torch.float32)[:, group]
        if self.order is not None:
            back = torch.empty_like(self.order, dtype=torch.int64)
            back[self.order.long()] = torch.arange(self.columns)
            values = values[:, back]
        return values.to(dtype)


def read_packed(
    name: str,
    packed: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    shape: tuple[int, int],
    group_index: Tensor | None,
    schemes: list[tuple[int, int | None]],
) -> PackedWeight | Tensor:
    """One weight as it lies in a pack-quantized folder.

    Args:
        name: the module it belongs to, for messages.
        packed: (O, I * bits / 32 rounded up) int32.
        scale: (O, G), or (O, 1) for one group to a row, or (1,) for one to the weight.
        zero_point: (O * bits / 32 rounded up, G) int32, packed along the rows; None when symmetric.
        shape: (O, I).
        group_index: (I,) group of each column when groups are not contiguous, else None.
        schemes: the (bits, group size or None) that the folder's configuration names.
    Returns:
        A `PackedWeight` when the codes fit into four bits, else the dense weight in the scale's dtype.
    Raises:
        UnsupportedModel: no scheme of the configuration gives tensors of these shapes.
    """
    rows, columns = shape
    scale = scale.reshape(1, 1) if scale.dim() == 0 else scale.reshape(scale.shape[0], -1)
    scale = scale.expand(rows, -1).contiguous()
    groups = scale.shape[1]
    fits = [
        (bits, size or columns)
        for bits, size in schemes
        if math.ceil(columns * bits / 32) == packed.shape[1] and math.ceil(columns / (size or columns)) == groups
    ]
    if not fits or packed.shape[0] != rows:
        raise UnsupportedModel(
            f"the packed weight {name} does not fit the quantization scheme of its folder",
            needs=f"for shape {shape}: " + " or ".join(f"{b} bits in groups of {g or 'a row'}" for b, g in schemes),
            found=f"weight_packed {tuple(packed.shape)}, weight_scale with {groups} groups",
            do="export the model again",
        )
    bits, group_size = fits[0]
    zero = None
    if zero_point is not None:
        zero = unpack_from_int32(zero_point, bits, torch.Size((rows, groups)), packed_dim=0).contiguous()
        zero = zero if bool(zero.any()) else None
    order = None
    if group_index is not None and bool((group_index[1:] < group_index[:-1]).any()):
        order = torch.argsort(group_index, stable=True)
    if bits > BITS or scale.dtype not in (torch.float32, torch.bfloat16):
        scale = scale.float() if scale.dtype == torch.float16 else scale
    words = packed.contiguous()
    if bits != BITS or order is not None:
        codes = unpack_from_int32(packed, bits, torch.Size(shape))
        if order is not None:
            codes = codes[:, order]
        if bits > BITS:
            return _dense(codes, scale, zero, group_size, order)
        words = pack_to_int32(codes.contiguous(), BITS)
    return PackedWeight(words, scale, zero, None if order is None else order.int(), group_size, columns)


def _dense(codes: Tensor, scale: Tensor, zero: Tensor | None, group_size: int, order: Tensor | None) -> Tensor:
    group = torch.arange(codes.shape[1]) // group_size
    values = codes.to(torch.float32)
    if zero is not None:
        values -= zero.to(torch.float32)[:, group]
    values *= scale.to(torch.float32)[:, group]
    if order is not None:
        values = values[:, torch.argsort(order)]
    return values.to(scale.dtype)


class PackedLinear(nn.Module):
    """A linear layer whose weight stays packed.

    A few input rows go through torch's int4 product where its conditions hold (bfloat16 inside, whatever the input's
    dtype); many rows, and weights that it does not take, are decoded and multiplied in the input's dtype.
    """

    bias: nn.Parameter | None
    blocks: Tensor | None
    scale_and_zero: Tensor | None

    def __init__(self, weight: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.in_features, self.out_features = weight, weight.columns, weight.rows
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        self.register_buffer("blocks", None, persistent=False)
        self.register_buffer("scale_and_zero", None, persistent=False)

    @property
    def has_kernel(self) -> bool:
        """Whether torch's int4 product takes this weight."""
        weight = self.weight
        return (
            weight.group_size in KERNEL_GROUPS
            and weight.columns % weight.group_size == 0
            and weight.rows % 16 == 0
            and weight.order is None
        )

    def prepare(self) -> None:
        """Lay the weight out for torch's int4 product (a second copy of it); nothing where that does not apply."""
        if self.blocks is not None or not self.has_kernel:
            return
        weight = self.weight
        codes = weight.codes().to(torch.int32) + 8
        self.blocks = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        scale = weight.scale.float()
        # The product computes (code - 8) * scale + offset.
        offset = torch.zeros_like(scale) if weight.zero is None else -weight.zero.float() * scale
        self.scale_and_zero = torch.stack((scale, offset), dim=-1).transpose(0, 1).contiguous().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        rows = x.numel() // self.in_features
        if self.blocks is None or rows >= KERNEL_ROWS:
            return functional.linear(x, self.weight.dequantize(x.dtype), _as(self.bias, x.dtype))
        flat = x.reshape(rows, self.in_features).to(torch.bfloat16)
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            flat, self.blocks, self.weight.group_size, self.scale_and_zero
        )
        if self.bias is not None:
            out = out + self.bias
        return out.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits=4, group_size={self.weight.group_size}"


def _as(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def schemes_of(quantization: dict[str, object], where: str) -> list[tuple[int, int | None]]:
    """The weight schemes, as (bits, group size or None), of a compressed-tensors `quantization_config`.

    Raises:
        ConfigError: something in it is not read here; names it and what would work.
    """

    def refuse(what: str, found: str) -> ConfigError:
        return ConfigError(
            f"pomona does not decode this quantized model: {what}",
            where=where,
            needs="compressed-tensors, format pack-quantized: integer weights of 1 to 8 bits, activations unquantized",
            found=found,
            do="quantize the dense model with `pomona quantize`, or load this folder with transformers",
        )

    method = quantization.get("quant_method")
    if method != "compressed-tensors":
        raise refuse("its quantization method is another one", f"quant_method {method!r}")
    if quantization.get("kv_cache_scheme"):
        raise refuse("its key-value cache is quantized", "kv_cache_scheme")
    if quantization.get("transform_config"):
        raise refuse("its activations are transformed before the products", "transform_config")
    default_format = str(quantization.get("format"))
    groups = quantization.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise refuse("it has no quantization schemes", "no config_groups")
    schemes: list[tuple[int, int | None]] = []
    for name, group in groups.items():
        if not isinstance(group, dict):
            raise refuse(f"the scheme {name} is not a set of values", repr(group))
        form = group.get("format") or default_format
        weights = group.get("weights") or {}
        if form != "pack-quantized":
            raise refuse(f"the scheme {name} is stored in another format", f"format {form!r}")
        if weights.get("type") != "int":
            raise refuse(f"the scheme {name} has weights that are not integers", f"type {weights.get('type')!r}")
        if group.get("input_activations") or group.get("output_activations"):
            raise refuse(f"the scheme {name} quantizes activations", "input_activations or output_activations")
        strategy = weights.get("strategy")
        if strategy not in ("group", "channel", "tensor"):
            raise refuse(f"the scheme {name} has scales of another kind", f"strategy {strategy!r}")
        scheme = (int(weights["num_bits"]), int(weights["group_size"]) if strategy == "group" else None)
        if scheme not in schemes:
            schemes.append(scheme)
    return schemes

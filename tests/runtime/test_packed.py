"""Reading packed weights, against the compressed-tensors library itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from torch import Tensor
from torch.nn import functional

from pomona.ground.errors import ConfigError, UnsupportedModel
from pomona.runtime.packed import PackedLinear, PackedWeight, read_packed, schemes_of

ROWS, COLUMNS = 48, 96


def compress(weight: Tensor, bits: int, group_size: int | None, symmetric: bool) -> tuple[dict[str, Tensor], Tensor]:
    """The library's tensors for a weight, and the weight that the library decodes from them."""
    strategy: dict[str, Any] = (
        {"strategy": "group", "group_size": group_size} if group_size else {"strategy": "channel"}
    )
    arguments = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, **strategy)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    grouped = weight.reshape(weight.shape[0], -1, group_size or weight.shape[1])
    scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), arguments)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    packed = PackedQuantizationCompressor.compress(state, scheme)
    return packed, PackedQuantizationCompressor.decompress(packed, scheme)["weight"]


def read(parts: dict[str, Tensor], bits: int, group_size: int | None, **more: Any) -> PackedWeight | Tensor:
    rows, columns = (int(n) for n in parts["weight_shape"])
    return read_packed(
        "layer",
        parts["weight_packed"],
        parts["weight_scale"],
        parts.get("weight_zero_point"),
        (rows, columns),
        more.get("group_index"),
        more.get("schemes", [(bits, group_size)]),
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, 24, None])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_reads_what_the_library_wrote(bits: int, group_size: int | None, symmetric: bool) -> None:
    """Catches: a wrong order of codes in a word, a wrong offset, zero points unpacked along the wrong axis."""
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(bits))
    parts, expected = compress(weight, bits, group_size, symmetric)
    found = read(parts, bits, group_size)
    assert isinstance(found, PackedWeight) == (bits <= 4)
    values = found.dequantize() if isinstance(found, PackedWeight) else found
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)


def test_four_bits_are_not_copied() -> None:
    """Catches: repacking where the file's own words would do."""
    parts, _ = compress(torch.randn(ROWS, COLUMNS), 4, 32, True)
    found = read(parts, 4, 32)
    assert isinstance(found, PackedWeight)
    assert found.words.data_ptr() == parts["weight_packed"].data_ptr()
    assert found.zero is None and found.order is None


def test_groups_that_are_not_contiguous() -> None:
    """Catches: columns sorted by group without the inputs following them."""
    generator = torch.Generator().manual_seed(1)
    index = torch.arange(COLUMNS) // 32
    shuffle = torch.randperm(COLUMNS, generator=generator)
    weight = torch.randn(ROWS, COLUMNS, generator=generator)
    # The library quantizes contiguous groups; shuffled columns with the index to match mean the same weight, shuffled.
    parts, expected = compress(weight, 4, 32, True)
    codes = read(parts, 4, 32)
    assert isinstance(codes, PackedWeight)
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    parts["weight_packed"] = pack_to_int32(codes.codes()[:, shuffle].contiguous(), 4)
    found = read(parts, 4, 32, group_index=index[shuffle])
    assert isinstance(found, PackedWeight) and found.order is not None
    torch.testing.assert_close(found.dequantize(), expected[:, shuffle], rtol=1e-6, atol=1e-6)


def test_several_schemes_are_told_apart_by_shape() -> None:
    """Catches: taking the first scheme of a folder for every weight."""
    parts, expected = compress(torch.randn(ROWS, COLUMNS), 4, 32, True)
    found = read(parts, 4, 32, schemes=[(8, None), (4, 96), (4, 32)])
    assert isinstance(found, PackedWeight) and found.group_size == 32
    torch.testing.assert_close(found.dequantize(), expected)


def test_a_weight_that_contradicts_its_scheme_is_refused() -> None:
    """Catches: decoding garbage from tensors of another shape."""
    parts, _ = compress(torch.randn(ROWS, COLUMNS), 4, 32, True)
    with pytest.raises(UnsupportedModel, match="4 bits in groups of 48"):
        read(parts, 4, 48)


@pytest.mark.parametrize("symmetric", [True, False])
def test_few_rows_take_the_kernel_many_do_not(symmetric: bool) -> None:
    """Catches: a wrong sign of the zero point in torch's int4 product; more than bfloat16's error in it."""
    generator = torch.Generator().manual_seed(2)
    parts, expected = compress(torch.randn(64, 128, generator=generator), 4, 32, symmetric)
    weight = read(parts, 4, 32)
    assert isinstance(weight, PackedWeight)
    bias = torch.randn(64, generator=generator)
    layer = PackedLinear(weight, bias)
    layer.prepare()
    x = torch.randn(1, 20, 128, generator=generator)
    exact = functional.linear(x, expected, bias)
    torch.testing.assert_close(layer(x), exact, rtol=1e-5, atol=1e-4)
    few = layer(x[:, :3])
    # bfloat16 rounds inputs, scales, offsets and result: each 2^-9 of terms whose sum of squares is |x|^2 |w|^2.
    assert float((few - exact[:, :3]).abs().max()) < 4 * 2**-8 * float(exact.abs().max())
    assert not torch.equal(few, exact[:, :3])


def scheme(**changes: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
    group = {"targets": ["Linear"], "weights": {**weights, **changes.pop("weights", {})}, **changes.pop("group", {})}
    whole = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}
    return {**whole, **changes}


def test_schemes() -> None:
    """Catches: losing the group size, or taking one for rows that have a single group."""
    assert schemes_of(scheme(), "") == [(4, 128)]
    assert schemes_of(scheme(weights={"strategy": "channel", "group_size": None}), "") == [(4, None)]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"quant_method": "gptq"}, "'gptq'"),
        ({"format": "nvfp4-pack-quantized"}, "'nvfp4-pack-quantized'"),
        ({"group": {"format": "float-quantized"}}, "'float-quantized'"),
        ({"weights": {"type": "float"}}, "'float'"),
        ({"weights": {"strategy": "block"}}, "'block'"),
        ({"group": {"input_activations": {"num_bits": 8}}}, "quantizes activations"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "cache"),
        ({"transform_config": {"config_groups": {}, "x": 1}}, "transformed"),
        ({"config_groups": {}}, "no config_groups"),
    ],
)
def test_schemes_that_are_not_read_are_named(changes: dict[str, Any], named: str) -> None:
    """Catches: decoding another format as if it were this one, which gives fluent nonsense."""
    with pytest.raises(ConfigError, match=named) as error:
        schemes_of(scheme(**changes), "config.json")
    assert "pomona quantize" in str(error.value)

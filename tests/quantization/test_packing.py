"""Packing of codes into words."""

from __future__ import annotations

import pytest
import torch

from pomona.quantization.packing import pack, packed_words, unpack


def test_by_hand() -> None:
    """Catches a wrong bit order: code i occupies the bits [i b, (i + 1) b), lowest first."""
    assert pack(torch.tensor([[1, 2, 3, 15]]), 4).tolist() == [[0xF321]]
    # 3 bits: code 10 begins at bit 30, so its upper bit goes to the next word
    codes = torch.zeros(1, 11, dtype=torch.uint8)
    codes[0, 10] = 0b101
    assert pack(codes, 3).tolist() == [[0b01 << 30, 0b1]]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("length", [1, 7, 31, 32, 33, 64, 100])
def test_pack_then_unpack_is_the_identity(bits: int, length: int) -> None:
    """Catches lost bits at word borders and wrong padding when the length is not a multiple of 32."""
    codes = torch.randint(0, 2**bits, (5, length), generator=torch.Generator().manual_seed(bits), dtype=torch.uint8)
    words = pack(codes, bits)
    assert words.dtype == torch.int32
    assert words.shape == (5, packed_words(length, bits)) == (5, -(-length * bits // 32))
    assert torch.equal(unpack(words, bits, length), codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_same_words_as_the_format_s_own_library(bits: int) -> None:
    """Catches a layout that other tools would read as different numbers."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes = torch.randint(0, 2**bits, (3, 75), generator=torch.Generator().manual_seed(bits))
    signed = (codes - 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(pack(codes, bits), pack_to_int32(signed, bits))


def test_refusals() -> None:
    """Catches silently truncated codes and misread lengths."""
    with pytest.raises(ValueError, match=r"lie in \[0, 3\]"):
        pack(torch.tensor([[4]]), 2)
    with pytest.raises(ValueError, match="2 to 8 can"):
        pack(torch.tensor([[1]]), 1)
    with pytest.raises(ValueError, match="take 4 words, not 3"):
        unpack(torch.zeros(1, 3, dtype=torch.int32), 4, 32)

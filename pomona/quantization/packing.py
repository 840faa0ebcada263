"""Codes of 2 to 8 bits, packed densely into 32-bit words: 32 codes of b bits fill b words, with no bit wasted.

Code i of a row occupies the bits [i b, (i + 1) b) of the row's words, lowest bit first; a code may straddle two words.
This is the layout of the compressed-tensors format "pack-quantized". A row whose length is not a multiple of 32 is
padded with zero codes up to the next whole word.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pomona.quantization.grid import MAX_BITS, MIN_BITS

_RUN = 32  # codes that fill a whole number of words, whatever their width


def packed_words(length: int, bits: int) -> int:
    """Words that `length` codes of `bits` bits take."""
    return -(-length * bits // 32)


def pack(codes_RI: Tensor, bits: int) -> Tensor:
    """Pack rows of codes.

    Args:
        codes_RI: whole numbers in [0, 2^bits - 1], any integer dtype.
        bits: 2 to 8.
    Returns:
        (R, ceil(I * bits / 32)) int32.
    Raises:
        ValueError: the width is not supported or a code does not fit in it.
    """
    _check_bits(bits)
    rows, length = codes_RI.shape
    if codes_RI.numel() and (int(codes_RI.max()) >= 2**bits or int(codes_RI.min()) < 0):
        raise ValueError(f"codes of {bits} bits lie in [0, {2**bits - 1}]")
    runs = -(-length // _RUN)
    padded = torch.nn.functional.pad(codes_RI, (0, runs * _RUN - length)).view(rows, runs, _RUN)
    words = torch.zeros(rows, runs, bits, dtype=torch.int64, device=codes_RI.device)
    for i in range(_RUN):
        word, offset = divmod(i * bits, 32)
        code = padded[..., i].long()
        words[..., word] |= (code << offset) & 0xFFFFFFFF
        if offset + bits > 32:
            words[..., word + 1] |= code >> (32 - offset)
    words = torch.where(words >= 2**31, words - 2**32, words)  # the same 32 bits as a signed number
    return words.to(torch.int32).view(rows, runs * bits)[:, : packed_words(length, bits)].contiguous()


def unpack(words_RP: Tensor, bits: int, length: int) -> Tensor:
    """The first `length` codes of every row, (R, length) uint8. The inverse of `pack`.

    Raises:
        ValueError: the width is not supported or the words are too few for the length.
    """
    _check_bits(bits)
    rows, present = words_RP.shape
    if present != packed_words(length, bits):
        raise ValueError(f"{length} codes of {bits} bits take {packed_words(length, bits)} words, not {present}")
    runs = -(-length // _RUN)
    padded = torch.nn.functional.pad(words_RP, (0, runs * bits - present)).view(rows, runs, bits).long() & 0xFFFFFFFF
    codes = torch.empty(rows, runs, _RUN, dtype=torch.uint8, device=words_RP.device)
    for i in range(_RUN):
        word, offset = divmod(i * bits, 32)
        code = padded[..., word] >> offset
        if offset + bits > 32:
            code = code | (padded[..., word + 1] << (32 - offset))
        codes[..., i] = code & (2**bits - 1)
    return codes.view(rows, runs * _RUN)[:, :length].contiguous()


def _check_bits(bits: int) -> None:
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"codes of {bits} bits cannot be packed; {MIN_BITS} to {MAX_BITS} can")

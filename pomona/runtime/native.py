"""The compiled decoding step: builds `step.cpp` once per machine and calls it.

Building takes a few seconds, once per machine (`ground.kernels`); loading takes none.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import gcd
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pomona.ground.kernels import NoKernel, build
from pomona.runtime.packed import PackedWeight

SOURCE = Path(__file__).with_name("step.cpp")
CHUNK, WORD = 128, 8
"""Columns of a packed row that step.cpp reads at once, and columns to a 32-bit word."""
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
_STORAGE = {torch.float32: 0, torch.bfloat16: 1, torch.int32: 2, torch.int8: 3}


class NoNativeStep(Exception):
    """Why the compiled step cannot be used here; the caller falls back to the model's own forward and says so."""


@cache
def library() -> ctypes.CDLL:
    """The compiled step, built now if it is not in the cache. Raises `NoNativeStep`."""
    try:
        loaded = build(SOURCE)
    except NoKernel as error:
        raise NoNativeStep(str(error)) from error
    loaded.pomona_layout.restype = ctypes.c_int32
    loaded.pomona_workspace.restype = ctypes.c_void_p
    loaded.pomona_free.argtypes = [ctypes.c_void_p]
    loaded.pomona_step.restype = ctypes.c_int32
    sizes = [ctypes.sizeof(kind) for kind in (_Matrix, _Norm, _Block, _Model)]
    layout = sizes[0] + 1000 * sizes[1] + 10000 * (sizes[2] // 8) + 1000000 * (sizes[3] // 8)
    assert loaded.pomona_layout() == layout, "step.cpp and native.py disagree about the structures"
    return loaded


# ---------------------------------------------------------------- the structures of step.cpp, in its order


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("zero", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("group_size", ctypes.c_int64),
        ("storage", ctypes.c_int32),
        ("scale_is_bfloat16", ctypes.c_int32),
    )


class _Norm(ctypes.Structure):
    _fields_ = (
        ("gain", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("epsilon", ctypes.c_float),
        ("centred", ctypes.c_int32),
    )


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("norm_attention", "norm_ffn", "norm_query", "norm_key")),
        *((name, _Matrix) for name in ("query", "key", "value", "output", "up", "gate", "down")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.POINTER(_Block)),
        *((name, _Matrix) for name in ("embedding", "positions", "head", "screen")),
        ("screen_error", ctypes.c_void_p),
        ("final_norm", _Norm),
        ("cosine", ctypes.c_void_p),
        ("sine", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in (
                "block_count",
                "hidden_size",
                "heads",
                "kv_heads",
                "head_dim",
                "feed_forward",
                "vocabulary",
                "rotary_size",
            )
        ),
        ("scaling", ctypes.c_float),
        ("activation", ctypes.c_int32),
    )


class _Cache(ctypes.Structure):
    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("slots", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("is_bfloat16", ctypes.c_int32),
    )


# ---------------------------------------------------------------- the same in tensors


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear map: (O, I) float32 or bfloat16, or packed; bias (O,) or None."""

    weight: Tensor | PackedWeight
    bias: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.weight.rows if isinstance(self.weight, PackedWeight) else self.weight.shape[0]

    @property
    def columns(self) -> int:
        return self.weight.columns if isinstance(self.weight, PackedWeight) else self.weight.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        bias = 0 if self.bias is None else self.bias.numel() * self.bias.element_size()
        return self.weight.nbytes + bias


@dataclass(frozen=True, eq=False)
class Normalization:
    """Gain (features,), bias or None; `centred` removes the mean first."""

    gain: Tensor
    bias: Tensor | None
    epsilon: float
    centred: bool


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """x + output(attention(norm(x))), then x + down(act(gate(norm(x))) * up(norm(x)))."""

    norm_attention: Normalization
    norm_ffn: Normalization
    norm_query: Normalization | None
    norm_key: Normalization | None
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    up: Linear
    gate: Linear | None
    down: Linear

    def linears(self) -> list[Linear]:
        maps = (self.query, self.key, self.value, self.output, self.up, self.gate, self.down)
        return [one for one in maps if one is not None]


@dataclass(frozen=True, eq=False)
class Plan:
    """A pre-norm decoder, as tensors.

    Args:
        embedding: (V, D); positions: (T, D) that are added to it, or None.
        rotary: gives (T, rotary size) cosines and sines of the first T rotary positions, halves paired; or None.
        head: (V, D), which may be the embedding.
        scaling: factor of the attention scores.
        activation: a key of `ACTIVATIONS`.
        max_positions: longest sequence, or None.
    """

    blocks: list[BlockPlan]
    embedding: Tensor
    positions: Tensor | None
    head: Linear
    final_norm: Normalization
    rotary: Callable[[int], tuple[Tensor, Tensor]] | None
    heads: int
    kv_heads: int
    head_dim: int
    scaling: float
    activation: str
    max_positions: int | None

    @property
    def vocabulary(self) -> int:
        return self.head.rows


@dataclass(eq=False)
class KeyValueCache:
    """Keys and values of `slots` sequences of at most `capacity` tokens: (L, slots, K, T, H) each."""

    keys: Tensor
    values: Tensor
    structure: Any = field(repr=False)

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]


class NativeStep:
    """A model in the form that the compiled step reads. Large weights are copied once, into large pages of memory.

    The numbers do not depend on the number of threads, on what else is in the batch, or on how a prompt is cut.

    Args:
        plan: the model.
        screen: keep an int8 copy of the head (a quarter of float32's bytes, half of bfloat16's) that finds the tokens
            which can be among the most probable; their logits are then computed from the head itself, so that the
            choice is the same. Costs memory, saves most of the head's reading time.
        threads: how many threads compute; by default torch's number.
    Raises:
        NoNativeStep: the library cannot be built here, or a weight has a storage that it does not read.
    """

    max_rows = 32
    """Rows to a step; longer prompts are cut into steps of this many."""

    def __init__(self, plan: Plan, *, screen: bool = True, threads: int | None = None) -> None:
        self._library = library()
        self._keep: list[Any] = []  # what the structures point to
        self._arena = _Arena()
        self._copies: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # address and size -> (original, copy)
        self.threads = threads or torch.get_num_threads()
        model = _Model()
        model.embedding = self._linear(Linear(plan.embedding))
        if plan.positions is not None:
            model.positions = self._linear(Linear(plan.positions))
        model.head = self._linear(plan.head)
        self.screened = screen and isinstance(plan.head.weight, Tensor)
        if self.screened:
            assert isinstance(plan.head.weight, Tensor)
            codes, scale, error = screen_of(plan.head.weight)
            model.screen = self._screen(codes, scale, plan.head.bias)
            model.screen_error = self._address(error)
        model.final_norm = self._norm(plan.final_norm)
        blocks = (_Block * len(plan.blocks))()
        for block, to in zip(plan.blocks, blocks, strict=True):
            to.norm_attention, to.norm_ffn = self._norm(block.norm_attention), self._norm(block.norm_ffn)
            to.norm_query, to.norm_key = self._norm(block.norm_query), self._norm(block.norm_key)
            for name in ("query", "key", "value", "output", "up", "down"):
                setattr(to, name, self._linear(getattr(block, name)))
            if block.gate is not None:
                to.gate = self._linear(block.gate)
        model.blocks = ctypes.cast(blocks, ctypes.POINTER(_Block))
        self._keep.append(blocks)
        model.block_count = len(plan.blocks)
        model.hidden_size = plan.embedding.shape[1]
        model.heads, model.kv_heads, model.head_dim = plan.heads, plan.kv_heads, plan.head_dim
        model.feed_forward = plan.blocks[0].up.rows
        model.vocabulary = self.vocabulary = plan.vocabulary
        model.scaling, model.activation = plan.scaling, ACTIVATIONS[plan.activation]
        self.max_positions = plan.max_positions
        self.bytes_per_token = sum(linear.nbytes for block in plan.blocks for linear in block.linears())
        self.bytes_per_token += plan.head.rows * (plan.head.columns + 8) if self.screened else plan.head.nbytes
        """Bytes of weights that one decoding step reads, besides a few rows of the head when it is screened."""
        self._cache_shape = (len(plan.blocks), plan.kv_heads, plan.head_dim)
        self._rotary, self._rotary_length = plan.rotary, 0
        self._copies.clear()
        self._model, self._logits = model, torch.empty(0, plan.vocabulary)
        self._workspace = ctypes.c_void_p(self._library.pomona_workspace())

    def __del__(self) -> None:
        if getattr(self, "_workspace", None):
            self._library.pomona_free(self._workspace)

    def new_cache(self, slots: int, capacity: int, dtype: torch.dtype) -> KeyValueCache:
        """Room for `slots` sequences of at most `capacity` tokens, in float32 or bfloat16."""
        if self._rotary is not None and self._rotary_length < capacity:
            cosine, sine = (table.float().contiguous() for table in self._rotary(capacity))
            self._model.cosine, self._model.sine = self._address(cosine), self._address(sine)
            self._model.rotary_size, self._rotary_length = cosine.shape[1], capacity
        blocks, kv_heads, head_dim = self._cache_shape
        shape = (blocks, slots, kv_heads, capacity, head_dim)
        keys, values = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
        structure = _Cache(
            keys=keys.data_ptr(),
            values=values.data_ptr(),
            slots=slots,
            capacity=capacity,
            is_bfloat16=int(dtype == torch.bfloat16),
        )
        return KeyValueCache(keys, values, structure)

    def step(
        self,
        cache: KeyValueCache,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        outputs: Sequence[int],
        keep: int = 0,
    ) -> tuple[list[int], Tensor]:
        """Append one token per row to its sequence.

        Args:
            tokens, slots, positions: of the R rows. Rows of one slot come in the order of their positions, and all
                earlier positions of the slot are in the cache or in this step.
            outputs: rows whose logits are wanted.
            keep: 0 for all logits; k > 0 for the k largest, exact, with -inf for tokens that cannot be among them.
        Returns:
            The token with the largest logit of each output (meaningless when `keep` is 0), and the logits
            (outputs, V) float32, valid until the next step.
        """
        count, wanted = len(tokens), len(outputs)
        integers = ctypes.c_int32 * count
        if self._logits.shape[0] < wanted:
            self._logits = torch.empty(wanted, self.vocabulary)
        best = (ctypes.c_int32 * max(wanted, 1))()
        failed = self._library.pomona_step(
            ctypes.byref(self._model),
            ctypes.byref(cache.structure),
            self._workspace,
            ctypes.c_int64(count),
            integers(*tokens),
            integers(*slots),
            integers(*positions),
            ctypes.c_int64(wanted),
            (ctypes.c_int32 * max(wanted, 1))(*outputs),
            ctypes.c_int32(keep),
            ctypes.c_void_p(self._logits.data_ptr()),
            best,
            ctypes.c_int32(self.threads),
        )
        if failed:
            raise MemoryError("the decoding step ran out of memory")
        return list(best[:wanted]), self._logits[:wanted]

    def _address(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        assert tensor.is_contiguous() and tensor.device.type == "cpu"
        self._keep.append(tensor)
        return tensor.data_ptr()

    def _large(self, tensor: Tensor) -> int:
        """Address of a copy in large pages: with small ones, finding them takes as long as reading a weight."""
        key = (tensor.data_ptr(), tensor.numel() * tensor.element_size())
        if key not in self._copies:  # a tied weight is held once; the originals are kept while addresses are compared
            self._copies[key] = (tensor, self._arena.copy(tensor))
        copy = self._copies[key][1]
        self._keep.append(copy)
        return copy.data_ptr()

    def _norm(self, norm: Normalization | None) -> _Norm:
        if norm is None:
            return _Norm()
        return _Norm(
            gain=self._address(norm.gain.float().contiguous()),
            bias=self._address(None if norm.bias is None else norm.bias.float().contiguous()),
            epsilon=norm.epsilon,
            centred=int(norm.centred),
        )

    def _linear(self, linear: Linear) -> _Matrix:
        weight = linear.weight
        bias = self._address(None if linear.bias is None else linear.bias.float().contiguous())
        if isinstance(weight, PackedWeight):
            fitted = with_kernel_groups(weight)
            if fitted is not None:
                return self._packed(fitted, bias)
            weight = weight.dequantize()  # groups so odd that no kernel follows them
        if weight.dtype not in (torch.float32, torch.bfloat16):
            weight = weight.float()
        weight = weight.contiguous()
        return _Matrix(
            data=self._large(weight),
            bias=bias,
            rows=weight.shape[0],
            columns=weight.shape[1],
            storage=_STORAGE[weight.dtype],
        )

    def _packed(self, weight: PackedWeight, bias: int | None) -> _Matrix:
        return _Matrix(
            data=self._large(weight.words),
            scale=self._large(weight.scale),
            zero=self._address(weight.zero),
            order=self._address(weight.order),
            bias=bias,
            rows=weight.rows,
            columns=weight.columns,
            groups=weight.scale.shape[1],
            group_size=weight.group_size,
            storage=_STORAGE[weight.words.dtype],
            scale_is_bfloat16=int(weight.scale.dtype == torch.bfloat16),
        )

    def _screen(self, codes: Tensor, scale: Tensor, bias: Tensor | None) -> _Matrix:
        return _Matrix(
            data=self._large(codes),
            scale=self._address(scale),
            bias=self._address(None if bias is None else bias.float().contiguous()),
            rows=codes.shape[0],
            columns=codes.shape[1],
            storage=_STORAGE[torch.int8],
        )


def with_kernel_groups(weight: PackedWeight) -> PackedWeight | None:
    """The same weight in groups that divide `CHUNK` columns or are a multiple of it, each of whole words; or None.

    One group to a row becomes a group of whole chunks. Other sizes are cut into equal parts with the same scale.
    """
    size, groups = weight.group_size, weight.scale.shape[1]
    if groups == 1:
        return replace(weight, group_size=-(-weight.columns // CHUNK) * CHUNK)
    part = gcd(size, CHUNK)
    if part < WORD:
        return None
    if size % CHUNK == 0 or part == size:
        return weight
    count = -(-weight.columns // part)

    def cut(values: Tensor) -> Tensor:
        return values.repeat_interleave(size // part, dim=1)[:, :count].contiguous()

    zero = None if weight.zero is None else cut(weight.zero)
    return replace(weight, scale=cut(weight.scale), zero=zero, group_size=part)


class _Arena:
    """Anonymous memory that asks the kernel for large pages, handed out piece by piece."""

    PIECE = 64 << 20
    LARGE_PAGE = 2 << 20

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def copy(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().contiguous()
        size = tensor.numel() * tensor.element_size()
        if size == 0:
            return tensor
        padded = -(-size // 64) * 64
        if padded > self._free.numel():
            self._free = self._map(max(padded, self.PIECE))
        piece, self._free = self._free[:size], self._free[padded:]
        held = piece.view(tensor.dtype).view(tensor.shape)
        held.copy_(tensor)
        return held

    def _map(self, size: int) -> Tensor:
        memory = mmap.mmap(-1, size + self.LARGE_PAGE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without large pages: small ones do
                memory.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        return whole[-whole.data_ptr() % self.LARGE_PAGE :][:size]


def screen_of(head_VD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An int8 copy of the head, and how far its logits can be off.

    Returns:
        codes (V, D) int8 and scale (V,) with head ~ codes * scale, and error (V,): by Cauchy-Schwarz the logit of
        token v from the copy differs from the exact one by at most error[v] * |x|.
    """
    codes = torch.empty(head_VD.shape, dtype=torch.int8)
    scale, error = torch.empty(head_VD.shape[0]), torch.empty(head_VD.shape[0])
    for begin in range(0, head_VD.shape[0], 4096):  # a slice at a time: no float32 copy of the whole head
        part = head_VD[begin : begin + 4096].float()
        step = part.abs().amax(dim=1).clamp_min(1e-30) / 127
        rounded = torch.round(part / step[:, None])
        codes[begin : begin + 4096] = rounded.to(torch.int8)
        scale[begin : begin + 4096] = step
        # A thousandth more, and a millionth of the row itself, cover float32 rounding of the products.
        gap = (part - rounded * step[:, None]).norm(dim=1)
        error[begin : begin + 4096] = 1.001 * gap + 1e-6 * part.norm(dim=1)
    return codes, scale, error

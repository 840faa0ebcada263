"""What `pomona anatomy` prints: the parts of a model as a table, and the outcome of every probe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from pomona.examination.units import count, data_size, flops
from pomona.ground.console import output
from pomona.ground.errors import ConfigError, UnsupportedModel, did_you_mean

if TYPE_CHECKING:
    from pomona.anatomy import Anatomy, Block, Norm, Verification, Weight
    from pomona.anatomy.block import Attention, FeedForward

Row = tuple[str, str, str, str]


def print_anatomy(name: str, tokens: int) -> None:
    """The parts, capabilities and costs of a model, from its configuration alone."""
    from pomona import anatomy
    from pomona.anatomy.specimen import config_of, meta_model

    for body in anatomy.towers(meta_model(config_of(name))).values():
        _print_body(body, tokens)


def _print_body(body: Anatomy, tokens: int) -> None:
    out = output()
    out.print(Text(f"{type(body.model).__name__} (shape {body.shape.name})", "bold"))
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("part", "axes", "size", "stored as"):
        table.add_column(title, no_wrap=title != "stored as")
    for row in rows_of(body):
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for label, value in facts_of(body, tokens):
        facts.add_row(Text(label, "dim"), Text(value))
    out.print()
    out.print(facts)


def rows_of(body: Anatomy) -> Iterator[Row]:
    """(part, axes, size, where it is stored) of every part; equal blocks in a row are told once."""
    from pomona.anatomy import Weight

    if body.embedding is not None:
        yield _row(body.embedding, "", 0)
    for role, part in body.around.items():
        yield from [_row(part, "", 0)] if isinstance(part, Weight) else _norm(part, role, "", 0)
    for stack in body.stacks:
        for table in (stack.positions, stack.bias_table, *stack.tables):
            if table is not None:
                yield _row(table, "", 0)
        yield from _norm(stack.embedding_norm, "embedding_norm", "", 0)
        for _, equal in groupby(stack.blocks, key=_signature):
            yield from _block(list(equal))
        yield from _norm(stack.final_norm, "final_norm", "", 0)
    for part in body.transform_parts:
        yield _row(part, "", 0)
    if body.head is not None:
        yield _row(body.head, "", 0)


def _block(equal: list[Block]) -> Iterator[Row]:
    first, last = equal[0], equal[-1]
    which = f"{first.kind} {first.index}" + (f" to {last.index}" if last is not first else "")
    yield which, f"{first.placement} norm", "", f"{first.path}" + (" ..." if last is not first else "")
    base = f"{first.path}."
    yield from _norm(first.norm_attention, "norm_attention", base, 1)
    yield from _attention(first.attention, "attention", base)
    yield from _norm(first.norm_attention_out, "norm_attention_out", base, 1)
    if first.scale_attention is not None:
        yield _row(first.scale_attention, base, 1)
    if first.cross_attention is not None:
        yield from _norm(first.norm_cross, "norm_cross", base, 1)
        yield from _attention(first.cross_attention, "cross_attention", base)
    yield from _norm(first.norm_ffn, "norm_ffn", base, 1)
    yield from _ffn(first.ffn, "ffn", base)
    yield from _norm(first.norm_ffn_out, "norm_ffn_out", base, 1)
    if first.scale_ffn is not None:
        yield _row(first.scale_ffn, base, 1)


def _attention(attention: Attention, role: str, base: str) -> Iterator[Row]:
    heads = f"{attention.num_heads} heads of {attention.head_dim.size}"
    if attention.num_kv_heads != attention.num_heads:
        heads += f", {attention.num_kv_heads} of keys and values"
    sees = "the encoder" if role == "cross_attention" else "earlier positions" if attention.causal else "all positions"
    yield f"  {role}", heads, "", f"sees {sees}" + (f", {attention.window} at most" if attention.window else "")
    for weight in attention.weights():
        yield _row(weight, base, 2)
    yield from _norm(attention.query_norm, "query_norm", base, 2)
    yield from _norm(attention.key_norm, "key_norm", base, 2)
    for latent in attention.latents():
        yield from _norm(latent.norm, latent.norm.gain.role.removeprefix("attention.").removesuffix(".gain"), base, 2)
    if attention.bias_table is not None:
        yield _row(attention.bias_table, base, 2)


def _ffn(ffn: FeedForward, role: str, base: str) -> Iterator[Row]:
    kind = "gated" if ffn.gate is not None else "plain"
    if ffn.experts is not None:
        kind += f", {ffn.num_experts} experts of {ffn.width}, {ffn.active} at a time"
    yield f"  {role}", kind, "", ""
    for weight in ffn.wholes():
        yield _row(weight, base, 2)


def _norm(norm: Norm | None, role: str, base: str, depth: int) -> Iterator[Row]:
    if norm is not None:
        _, axes, size, stored = _row(norm.gain, base, depth)
        kind = "RMSNorm" if norm.kind == "rms" else "LayerNorm"
        yield "  " * depth + role, f"{kind} of {axes}", size, stored


def _row(weight: Weight, base: str, depth: int) -> Row:
    remarks = [
        remark
        for remark, holds in (
            ("fused", weight.fused),
            ("transposed", weight.transposed),
            ("of all experts", weight.routed),
            ("with bias", weight.bias is not None),
        )
        if holds
    ]
    axes = ", ".join(axis.name for axis in weight.axes)
    sizes = " x ".join(f"{size:,}" for size in weight.shape)
    stored = weight.name.removeprefix(base) + (f" ({', '.join(remarks)})" if remarks else "")
    role = weight.role.rpartition(".")[2] if depth > 1 else weight.role
    return "  " * depth + role, axes, sizes, stored


def _signature(block: Block) -> tuple[object, ...]:
    """What two blocks share when they are told once."""
    parts = tuple((part.role, part.shape, part.name.removeprefix(block.path)) for part in block.parts())
    return parts, block.placement, block.attention.window, block.attention.causal, block.ffn.active


def facts_of(body: Anatomy, tokens: int) -> Iterator[tuple[str, str]]:
    """What a model can do, and what it costs."""
    total, inner = body.parameter_count(), body.parameter_count(non_embedding=True)
    yield "parameters", f"{total:,} ({count(total)}); without embedding and head {inner:,}"
    spaces = Counter((space.name, space.size) for space in body.spaces())
    yield (
        "spaces",
        ", ".join(f"{name} {size:,}" + (f" ({n} times)" if n > 1 else "") for (name, size), n in spaces.items()),
    )
    if body.unseen:
        shown = ", ".join(body.unseen[:4]) + (", ..." if len(body.unseen) > 4 else "")
        yield "not part of it", f"{shown}: kept as they are by every method"
    for names in body.ties:
        yield "tied", " = ".join(names)
    yield f"at {tokens:,} tokens", f"{flops(body.flops_per_token(tokens, training=False))} per token"
    if body.stacks[-1].causal:
        yield "", f"{data_size(body.kv_cache_bytes(tokens))} of cached keys and values for each sequence"
    yield "capabilities", ", ".join(sorted(body.capabilities))


def print_checks(name: str | None, every: bool, shape: str | None, config_only: bool) -> bool:
    """Run the probes and print what they found; True when all passed."""
    from pomona import anatomy
    from pomona.anatomy.specimen import specimen

    if (name is None) != every:
        raise ConfigError("check needs a MODEL or --all, not both", do="pomona anatomy check llama")
    passed = True
    for row in _rows(shape) if name is None else [name]:
        start = time.perf_counter()
        try:
            found = anatomy.verify(specimen(row), None if every else shape)
        except UnsupportedModel as error:
            if not every:
                raise
            output().print(Text.assemble((f"{row:24}", "bold"), ("refused", "red"), f"\n  {error}"), soft_wrap=True)
            passed = False
            continue
        print_verification(row, found, time.perf_counter() - start)
        passed &= found.passed
    if name is not None and passed and not config_only:
        passed = _check_weights(name, shape)
    return passed


def print_draft(name: str) -> bool:
    """Propose a declaration and print it as source, with what is open; True when there is one."""
    from pomona import anatomy
    from pomona.anatomy.specimen import specimen

    found = anatomy.draft(specimen(name))
    output().print(Text(str(found)), soft_wrap=True)
    return found.shape is not None


def print_verification(name: str, found: Verification, seconds: float) -> None:
    """A line for the model with the number of checks by probe, and a line with a remedy for each one that failed."""
    from pomona.anatomy.remedies import REMEDIES

    probes: dict[str, list[bool]] = {}
    for check in found.checks:
        probes.setdefault(check.probe, []).append(check.passed)
    counts = ", ".join(
        f"{probe} {len(passed)}" if all(passed) else f"{probe} {sum(passed)} of {len(passed)}"
        for probe, passed in probes.items()
    )
    out = output()
    verdict = ("proven", "green") if found.passed else ("FAILED", "red")
    out.print(
        Text.assemble((f"{name:24}", "bold"), verdict, f" as {found.shape} in {seconds:.1f} s: ", (counts, "dim")),
        soft_wrap=True,
    )
    for check in found.failures:
        out.print(Text.assemble(("  FAIL ", "red"), f"{check.probe}: {check.part} ({check.found})"), soft_wrap=True)
    for probe in dict.fromkeys(check.probe for check in found.failures):
        out.print(Text(f"  {probe}: {REMEDIES[probe]}"), soft_wrap=True)


def _rows(shape: str | None) -> list[str]:
    """The names of the tiny models, of one shape or of all."""
    from transformers import AutoConfig

    from pomona.anatomy import known_shapes
    from pomona.anatomy.registry import shapes_of
    from pomona.anatomy.tiny import TINY

    if shape is not None and shape not in known_shapes():
        raise ConfigError(f"there is no shape {shape!r}", do=did_you_mean(shape, known_shapes()))
    if shape is None:
        return list(TINY)
    configs = {name: AutoConfig.for_model(row.model_type, **row.settings) for name, row in TINY.items()}
    return [name for name, config in configs.items() if any(found.name == shape for found in shapes_of(config))]


def _check_weights(name: str, shape: str | None) -> bool:
    """The probes that a model's own weights can stand; True when they pass, or when there are no weights."""
    from pomona import anatomy
    from pomona.anatomy.specimen import class_of, config_of
    from pomona.stages.models import load

    start = time.perf_counter()
    if Path(name).is_dir():
        model = load(Path(name)).eval()
    elif "/" in name:
        kind = class_of(config_of(name))
        model = kind.from_pretrained(name, dtype="float32", use_safetensors=True, trust_remote_code=False).eval()
    else:
        return True
    found = anatomy.verify_weights(anatomy.of(model, shape))
    print_verification(f"{name} (its weights)", found, time.perf_counter() - start)
    return found.passed

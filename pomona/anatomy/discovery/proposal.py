"""Draft a declaration from experiments, verify it, and report what is open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import nn

from pomona.anatomy.body import Anatomy
from pomona.anatomy.declaration import BlockShape, Fields, Positions, Shape, StackShape
from pomona.anatomy.discovery.around import AroundFinder, Surrounding
from pomona.anatomy.discovery.block import BlockFinder
from pomona.anatomy.discovery.runs import Runs
from pomona.anatomy.discovery.source import source_of
from pomona.anatomy.find import is_linear
from pomona.anatomy.remedies import REMEDIES
from pomona.anatomy.verify import Verification, verify
from pomona.ground.errors import PomonaError, UnsupportedModel

FEWEST_MAPS = 3
"""Linear maps that a module of a list holds if it is a block: fused attention, its output, ..."""


@dataclass(frozen=True)
class Draft:
    """A proposed declaration.

    Args:
        shape: the declaration, or None when attention or feed-forward were not recognised.
        open: what could not be found or proven, with what to look at.
        verification: what the probes found out about it, or None when it does not even find the parts.
    """

    shape: Shape | None
    open: tuple[str, ...]
    verification: Verification | None = None

    @property
    def proven(self) -> bool:
        """Every probe passed, and nothing is open."""
        return self.verification is not None and self.verification.passed and not self.open

    def __str__(self) -> str:
        """The declaration as Python source, and what is known about it as comments."""
        lines = [f"# open: {' '.join(note.split())}" for note in self.open]
        if self.verification is not None:
            checks = self.verification.checks
            lines.append(f"# {sum(check.passed for check in checks)} of {len(checks)} checks passed")
        return ("" if self.shape is None else source_of(self.shape)) + "\n".join(lines)


def draft(model: Any) -> Draft:
    """Draft a declaration for a model that the registry does not know; the model is left as it is.

    What is drafted holds for the options of this configuration: placements, gates or norms that an option switches are
    found in the one position that it has.

    Args:
        model: a small `PreTrainedModel` of the family (`anatomy.specimen.tiny_like(config)` makes one), of at least two
            blocks, whose sizes (heads, features, ...) differ.
    Raises:
        UnsupportedModel: no inputs that it takes were found, or no list of blocks.
    """
    runs = Runs(model)
    lists = _lists_of_blocks(runs)
    around = AroundFinder(runs, lists)
    notes: list[str] = []
    found = [
        _stack(runs, around, name, path, notes)
        for name, path in zip(("blocks",) if len(lists) == 1 else ("encoder", "decoder"), lists, strict=True)
    ]
    parts = [each for each in found if each is not None]
    if len(parts) < len(lists):
        return Draft(None, tuple(notes))
    model_type, own, fields = str(model.config.model_type), parts[0][1], parts[0][0].fields
    shape = Shape(
        name=model_type,
        model_types=(model_type,),
        embedding=own.embedding,
        embedding_features=own.embedding_features,
        stacks=tuple(replace(each, fields=None if each.fields == fields else each.fields) for each, _ in parts),
        head=around.head(parts[-1][1].left),
        positions=_positions(runs, [each for _, each in parts]),
        fields=fields or Fields(),
        around=own.projections,
        inputs=runs.declared,
    )
    return _verified(model, shape, notes)


def _stack(
    runs: Runs, around: AroundFinder, name: str, path: str, notes: list[str]
) -> tuple[StackShape, Surrounding] | None:
    """The declaration of one stack, and what lies around it; None when its blocks were not recognised."""
    blocks = runs.module(path)
    found = BlockFinder(runs, f"{path}.{len(blocks) - 1}").find()
    notes += found.open
    if found.shape is None:
        return None
    own = around.find(path)
    sizes = {"hidden_size": runs.plain.inputs[f"{path}.0"].shape[-1], **found.sizes}
    if own.embedding is not None:
        sizes["vocabulary"] = around.words.num_embeddings
    naming = Naming(runs.model.config, "" if name == "blocks" else name, notes)
    block, first = _in_all(found.shape, blocks)
    stack = StackShape(
        name=name,
        blocks=path.removeprefix(f"{runs.body}.") if runs.body else path,
        block=block,
        final_norm=own.final_norm,
        positions=own.positions,
        positions_features=own.positions_features,
        first_position=own.first_position,
        tables=own.tables,
        embedding_norm=own.embedding_norm,
        embedding_norm_over=own.embedding_norm_over,
        causal=found.causal,
        count=naming.field("number of blocks", StackShape.count, len(blocks)) or StackShape.count,
        first=first,
        fields=naming.fields(sizes),
    )
    return stack, own


def _verified(model: Any, shape: Shape, notes: list[str]) -> Draft:
    try:
        verification, unseen = verify(model, shape), Anatomy(model, shape).unseen
    except PomonaError as error:
        return Draft(shape, (*notes, str(error)))
    notes = notes + [f"{name}: a parameter without a place" for name in unseen]
    failed: dict[str, list[str]] = {}
    for check in verification.failures:
        failed.setdefault(check.probe, []).append(f"{check.part} ({check.found})")
    for probe, parts in failed.items():
        more = f" and {len(parts) - 1} more" if parts[1:] else ""
        notes.append(f"{probe} is not proven: {parts[0]}{more}; {REMEDIES[probe]}")
    return Draft(shape, tuple(notes), verification)


def _lists_of_blocks(runs: Runs) -> list[str]:
    """Paths of the outermost lists of modules that hold linear maps and were called: one, or encoder and decoder."""
    found: list[str] = []
    for path, module in runs.model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(path.startswith(f"{other}.") for other in found):
            maps = [sum(is_linear(part) for part in child.modules()) for child in module]
            if maps and min(maps) >= FEWEST_MAPS and f"{path}.0" in runs.plain.inputs:
                found.append(path)
    if not 0 < len(found) < 3:
        raise UnsupportedModel(
            f"the blocks of {type(runs.model).__name__} were not found",
            needs="one list of blocks, or those of an encoder and of a decoder",
            found=", ".join(found) or "none",
            do="declare the shape by hand: see pomona/anatomy/declaration.py",
        )
    return found


def _in_all(block: BlockShape, blocks: nn.ModuleList) -> tuple[BlockShape, str | None]:
    """The declaration of one block with "?" at the norms that others lack, and a note when the first lacks some."""
    lacking: dict[str, list[int]] = {}
    for name in ("norm_attention", "norm_ffn", "norm_attention_out", "norm_ffn_out"):
        path = getattr(block, name)
        if path is not None:
            parent, _, attribute = path.rpartition(".")
            held = [getattr(each.get_submodule(parent), attribute, None) for each in blocks]
            lacking[name] = [i for i, module in enumerate(held) if module is None or isinstance(module, nn.Identity)]
    optional: dict[str, Any] = {name: f"{getattr(block, name)}?" for name, places in lacking.items() if places}
    first = "is made in another way than the others" if [0] in lacking.values() else None
    return replace(block, **optional), first


def _positions(runs: Runs, around: list[Surrounding]) -> Positions:
    if any("inv_freq" in name for name, _ in runs.model.named_buffers()):
        return "rotary"
    return "learned" if any(each.positions for each in around) else "computed"


@dataclass(frozen=True)
class Naming:
    """Finds the fields of a configuration that hold measured sizes.

    Args:
        kind: "encoder" or "decoder", which names of fields may begin with; empty for a single stack.
        notes: gets what was not found.
    """

    config: Any
    kind: str
    notes: list[str]

    def fields(self, sizes: Mapping[str, int]) -> Fields:
        """The names for sizes, which are called as in `Fields`; what has its usual meaning may be absent."""
        width, heads = sizes["hidden_size"], sizes["heads"]
        usual = {"kv_heads": heads, "head_dim": width // heads, "feed_forward": 4 * width}
        names: dict[str, str] = {}
        for one in fields(Fields):
            default = str(one.default)
            value = sizes.get(one.name)
            if value is None or (value == usual.get(one.name) and getattr(self.config, default, None) is None):
                continue
            name = self.field(one.name, default, value)
            if name is not None:
                names[one.name] = name
        return Fields(**names)  # type: ignore[arg-type]

    def field(self, what: str, default: str, value: int) -> str | None:
        """The field with this value: the one that is usually called so, or else the only one."""
        if getattr(self.config, default, None) == value:
            return default
        held: list[str] = [name for name, each in vars(self.config).items() if type(each) is int and each == value]
        named = [name for name in held if self.kind in name and not name.endswith("_token_id")]
        if len(named) == 1:
            return named[0]
        self.notes.append(f"fields: the {what} is {value}, and not one field of the configuration is")
        return None

"""Edits: change the size of spaces in every weight that names them, all or nothing, with the configuration kept true.

    with body.edit() as edit:
        edit.keep(block.ffn.features, [0, 2, 3])                       # cut to three features
        edit.expand(body.residual, [0, 1, 2, 0, 1, 2])                 # coordinate j is a copy of old coordinate g(j)
        edit.write(block.ffn.down, values)                             # other values, in the new shape

Everything is checked on a copy without values first, `plan()` says what will happen, and the edited model is run on a
few tokens before the first parameter is replaced. Parameters that keep their shape keep their identity; the others are
new objects, so an optimizer has to be built anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pomona.anatomy import sizes as sizing
from pomona.anatomy.architecture import build, require_as_built, reread, restored_on_error, tower_of, transplant_
from pomona.anatomy.edit_refusals import (
    require_groups,
    require_runs,
    require_same_parts,
    require_separate_heads,
    require_unseen_alike,
)
from pomona.anatomy.fields import expressed
from pomona.anatomy.following import Change, change_along, change_of, scales, values_after
from pomona.anatomy.permute import hindrance
from pomona.anatomy.sizes import Sizes
from pomona.anatomy.space import Space
from pomona.anatomy.weight import Weight
from pomona.ground.errors import ConfigError, UnsupportedModel

if TYPE_CHECKING:
    from pomona.anatomy.body import Anatomy

Readers = Literal["share", "copy"] | Tensor
"""What a reader's column becomes when a coordinate has several copies: divided among them, or copied, or a factor."""


@dataclass(frozen=True)
class EditPlan:
    """What an edit will do.

    Args:
        changes: (space, size before, size after), in order.
        fields: configuration field -> value afterwards, for those that change.
        recorded: sizes that the fields of the configuration cannot express; empty when they can.
        loads_with: what loads the saved folder: any transformers, or `pomona.anatomy.load` (no code is stored or run).
        parameters_before, parameters_after: of the whole model, tied ones once.
    """

    changes: tuple[tuple[Space, int, int], ...]
    fields: Mapping[str, Any]
    recorded: Sizes
    parameters_before: int
    parameters_after: int
    loads_with: Literal["transformers", "pomona"]

    def __str__(self) -> str:
        lines = [f"{space}: {before} to {after}" for space, before, after in self.changes]
        lines.append(f"parameters: {self.parameters_before:,} to {self.parameters_after:,}")
        lines += [f"configuration: {name} = {value}" for name, value in self.fields.items()]
        if self.loads_with == "pomona":
            what = f"{sum(map(len, self.recorded.values()))} sizes" if self.recorded else "norms"
            lines.append(f"loads with pomona.anatomy.load only: {what} that no field of transformers expresses")
        else:
            lines.append("loads with transformers")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Prepared:
    """An edit that has been checked: the architecture before and after, without values."""

    plan: EditPlan
    old: Any
    new: Anatomy


class Edit:
    """Changes of one model that are made together. Coordinates are always those from before the edit."""

    def __init__(self, body: Anatomy) -> None:
        self._body = body
        self._changes: dict[Space, Change] = {}
        self._written: dict[Any, Tensor] = {}
        self._prepared: _Prepared | None = None

    def keep(self, space: Space, indices: Sequence[int] | Tensor) -> None:
        """Cut a space to some of its coordinates. What read the others no longer does; nothing is rescaled.

        Key-value heads take their query heads with them, experts their features. Cut below a parent (query heads, the
        features of experts), every parent must keep as many.

        Args:
            indices: coordinates to keep, different and ascending; at least one.
        """
        source = _int64(indices)
        if sorted(set(source.tolist())) != source.tolist():
            raise ConfigError(
                f"the coordinates of {space} to keep are not valid",
                needs="different ones in ascending order",
                found=_shown(source),
                do="use `expand` to copy or reorder coordinates",
            )
        self._add(space, Change(source, None))

    def expand(self, space: Space, source: Sequence[int] | Tensor, readers: Readers = "share") -> None:
        """Let new coordinate j of a space be a copy of old coordinate `source[j]`.

        What writes a coordinate is copied; what reads it is copied times a factor. With "share" the factor is one over
        the number of copies, so that the readers' sums, and with them the model's function, stay as they are (for the
        residual space: where all coordinates get as many copies, for a norm takes a mean over them).

        Args:
            source: (new size,) old coordinates, any number of times.
            readers: "share", "copy" (factor 1), or the factors, (new size,).
        """
        index = _int64(source)
        factor: Tensor | None = None
        if isinstance(readers, Tensor):
            factor = readers.detach().double().cpu()
            if factor.shape != index.shape:
                raise ConfigError(
                    f"the factors of {space} do not fit", needs=f"{len(index)}, one to each", found=str(len(factor))
                )
        elif readers == "share" and len(index) and space.name not in ("vocabulary", "expert"):
            inside = index.clamp(0, space.size - 1)
            factor = 1.0 / torch.bincount(inside, minlength=space.size)[inside].double()
        self._add(space, Change(index, factor))

    def write(self, weight: Weight, values: Tensor) -> None:
        """Replace a weight by `values`, in the canonical shape that it will have after the edit."""
        if weight.key not in {part.key for part in self._body.parts()}:
            raise ConfigError(f"{weight.role} is not a weight of this model", do="take it from the edited anatomy")
        self._written[weight.key] = values
        self._prepared = None

    def plan(self) -> EditPlan:
        """Check the edit and say what it will do, without values and without changing anything.

        Raises:
            ConfigError: the changes contradict each other or the model's structure.
            UnsupportedModel: a part of the model that the anatomy does not see would have to change with it.
        """
        return self._prepare().plan

    def apply(self) -> EditPlan:
        """Make the edit. When anything is refused or fails, the model has not changed."""
        prepared, self._prepared = self._prepare(), None
        body, model = self._body, self._body.model
        generation = getattr(model, "generation_config", None)
        tokens = self._tokens(generation)
        parameters = self._filled(prepared.new)
        require_runs(prepared.new)
        with restored_on_error(model):
            transplant_(model, prepared.old, prepared.new.model, parameters)
            body.refresh()
        for name, value in tokens.items():
            setattr(generation, name, value)
        self._changes, self._written = {}, {}
        return prepared.plan

    # ---- checks

    def _add(self, space: Space, change: Change) -> None:
        if space not in self._body.spaces():
            raise ConfigError(
                f"{space} is not a space of this model",
                needs="one of `body.spaces()` as they are now",
                do="take it from the edited anatomy: after an edit, spaces are new objects",
            )
        why = None if space.name == "vocabulary" else hindrance(self._body, space)
        if space.name not in sizing.EDITABLE or why is not None:
            raise UnsupportedModel(
                f"the size of {space} cannot change (nothing was changed)",
                needs=f"one of {', '.join(sizing.EDITABLE)}, whose coordinates are interchangeable",
                found=why or space.name,
                do="leave it as it is",
            )
        source = change.source
        wrong = source[(source < 0) | (source >= space.size)]
        if len(wrong) or not len(source):
            raise ConfigError(
                f"the coordinates of {space} are not valid",
                needs=f"at least one, from 0 to {space.size - 1}",
                found=_shown(wrong) if len(wrong) else "none",
            )
        if space.parent is not None:
            require_groups(space, space.parent, source)
        if space.name in ("head", "kv_head"):
            require_separate_heads(self._body, space, source)
        related = [space, space.parent, *(other for other in self._body.spaces() if other.parent == space)]
        taken = next((other for other in related if other in self._changes), None)
        if taken is not None:
            raise ConfigError(
                f"{space} is changed twice in one edit",
                found=f"a change of {taken}",
                do="make two edits, one after the other",
            )
        self._changes[space] = change
        self._prepared = None

    def _prepare(self) -> _Prepared:
        if self._prepared is not None:
            return self._prepared
        body = self._body
        if not self._changes and not self._written:
            raise ConfigError("the edit changes nothing", do="call keep, expand or write before the block ends")
        old = build(type(body.model), reread(body.model.config, {}, tower_of(body.model, body.config)))
        require_as_built(body.model, old)
        wanted = self._wanted()
        new, fields = expressed(body, wanted, self._tokens(body.config))
        require_unseen_alike(body, new)
        require_same_parts(body, new, self._changes)
        changes = {space: len(change.source) for space, change in self._changes.items()}
        for space in body.spaces():
            if space.parent in changes:
                changes[space] = space.size // space.parent.size * changes[space.parent]
        plan = EditPlan(
            changes=tuple((space, space.size, size) for space, size in changes.items()),
            fields=fields,
            recorded=sizing.recorded(new.config),
            parameters_before=body.parameter_count(),
            parameters_after=new.parameter_count(),
            loads_with=new.loads_with,
        )
        self._prepared = _Prepared(plan, old, new)
        return self._prepared

    def _wanted(self) -> Sizes:
        """The sizes after the edit."""
        wanted = sizing.sizes_of(self._body)
        for space in self._body.spaces():
            if space.name in sizing.EDITABLE:
                change = change_of(space, self._changes)
                if change is not None:
                    names = ("head", "kv_head") if space.name == "head" and space.parent is None else (space.name,)
                    wanted[space.scope].update(dict.fromkeys(names, len(change.source)))
        for attention in self._body.attentions():
            keys, values = (sizing.size_of(space, wanted) for space in (attention.head_dim, attention.value_dim))
            if keys != values and attention.head_dim.size == attention.value_dim.size:
                raise ConfigError(
                    "keys and values of one head must keep one size",
                    found=f"{keys} for {attention.head_dim}, {values} for {attention.value_dim}",
                    do="change both spaces to the same size in one edit",
                )
        for block in self._body.blocks:
            if block.ffn.experts is not None and sizing.size_of(block.ffn.experts, wanted) < block.ffn.active:
                raise ConfigError(
                    f"too few experts are left in {block.path}", needs=f"{block.ffn.active}, which each token uses"
                )
        return wanted

    def _tokens(self, config: Any) -> dict[str, Any]:
        """The ids of special tokens in a configuration, as they are after the vocabulary has changed."""
        vocabulary = self._body.vocabulary
        change = None if vocabulary is None else self._changes.get(vocabulary)
        if change is None or config is None:
            return {}
        place = {token: index for index, token in reversed(list(enumerate(change.source.tolist())))}
        found: dict[str, Any] = {}
        for name, value in vars(config).items():
            if not name.endswith("_token_id") or not isinstance(value, int | list):
                continue
            lost = [token for token in ([value] if isinstance(value, int) else value) if token not in place]
            if lost:
                raise ConfigError(
                    "the vocabulary loses a special token (nothing was changed)",
                    needs=f"row {lost[0]}, which is {name}",
                    do="keep it, or name another token in the configuration first",
                )
            found[name] = place[value] if isinstance(value, int) else [place[token] for token in value]
        return found

    # ---- values

    @torch.no_grad()
    def _filled(self, new: Anatomy) -> dict[str, nn.Parameter]:
        """The parameters of the edited model by name; `new` gets them too. Those that nothing touches stay the same."""
        body, model = self._body, self._body.model
        scaled = scales(body, new, self._changes)
        pairs = list(zip(body.parts(), new.parts(), strict=True))
        touched = {
            id(old.parameter)
            for old, _ in pairs
            if old.key in self._written
            or old.key in scaled
            or any(change_along(axis, self._changes) for axis in old.axes)
        }
        names: dict[int, nn.Parameter] = {}
        own = dict(model.named_parameters(remove_duplicate=False))
        for name, empty in new.model.named_parameters(remove_duplicate=False):
            present = own[name]
            if id(empty) not in names:
                names[id(empty)] = present
                if id(present) in touched:
                    values = torch.empty(empty.shape, dtype=present.dtype, device=present.device)
                    names[id(empty)] = nn.Parameter(values, requires_grad=present.requires_grad)
        parameters = {name: names[id(empty)] for name, empty in new.model.named_parameters(remove_duplicate=False)}
        for path, module in new.model.named_modules():
            for name in module._parameters:
                full = f"{path}.{name}" if path else name
                if full in parameters:
                    module._parameters[name] = parameters[full]
        written = set()
        for old, fresh in pairs:
            if id(old.parameter) in touched and old.key not in written:  # of tied weights, the first is written
                written.add(old.key)
                given = self._written.get(old.key)
                fresh.write_(values_after(old, self._changes, scaled) if given is None else given)
        return parameters


def _int64(values: Sequence[int] | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int64).flatten().cpu()


def _shown(values: Tensor) -> str:
    listed = values.tolist()
    return ", ".join(map(str, listed[:8])) + (", ..." if len(listed) > 8 else "")

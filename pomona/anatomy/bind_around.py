"""Apply the declared parts around the blocks to a model: stems, poolers, further heads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import nn

from pomona.anatomy.find import Finder, join
from pomona.anatomy.space import Axis, Space
from pomona.anatomy.surroundings import MAPS, Part
from pomona.anatomy.weight import Norm, Weight


class Surroundings:
    """Binds parts in the order in which they are declared; a space gets its size from the first that names it.

    Attributes:
        spaces: the spaces of the model by name, as "residual" or "channel.0".
        heads: those of each block in turn, as soon as they are known.
    """

    def __init__(self, find: Finder, spaces: Sequence[Space]) -> None:
        self.find = find
        self.spaces: dict[str, Space] = {space.name: space for space in spaces}
        self.heads: list[Space] = []

    def bind(self, declared: Sequence[Part]) -> dict[str, Weight | Norm]:
        """The declared parts that the model has, by role.

        Raises:
            UnsupportedModel: a part that is not optional is absent, or a side has another size than its space.
        """
        found = ((part.role, self._part(part)) for each in declared for part in self._each(each))
        return {role: part for role, part in found if part is not None}

    def axis(self, side: str, stored: Sequence[int] | None = None) -> Axis:
        """The axis that a side names: "a*b" is a product, "a|b" the first that is known.

        Args:
            stored: sizes of the tensor along it, kernel axes apart; names that are not known take theirs from it.
        """
        if side == MAPS:
            return Axis(tuple(self.heads), joined=True)
        names = [self._first(name) for name in side.split("*")]
        sizes = [self.spaces[name].size if name in self.spaces else None for name in names]
        if stored is not None and len(stored) == len(names):
            sizes = [size or there for size, there in zip(sizes, stored, strict=True)]
        elif stored is not None:
            rest = math.prod(stored) // math.prod(size or 1 for size in sizes)
            sizes = [size or rest for size in sizes]
        return Axis(tuple(self._space(name, size) for name, size in zip(names, sizes, strict=True)))

    def _each(self, part: Part) -> Iterator[Part]:
        """One part for every index that "*" in its path stands for."""
        if "*" not in part.path:
            yield part
            return
        before, _, after = part.path.partition(".*")
        found = self.find.find(self.find.body_path, before)
        for i in range(0 if found is None else len(list(found[1].children()))):
            sides = tuple(side.format(i=i, before=i - 1, last="last") for side in part.sides)
            yield Part(f"{part.role}.{i}", f"{before}.{i}{after}", part.kind, sides, part.per)

    def _part(self, part: Part) -> Weight | Norm | None:
        at = self._parameter(part.path)
        if at is None:
            return None
        name, owner, attribute = at
        stored: nn.Parameter = getattr(owner, attribute)
        if part.kind == "layer" or part.kind == "rms":
            over = self.axis(part.sides[0], stored.shape)
            return self.find.norm(part.role, "", name.rpartition(".")[0], over, part.kind, 0.0)
        sizes: list[Sequence[int]] = [(size,) for size in stored.shape[stored.dim() - len(part.sides) :]]
        if part.kind == "linear":
            sizes = [stored.shape[:1], stored.shape[1:]]
        axes = tuple(self.axis(side, size) for side, size in zip(part.sides, sizes, strict=True))
        bias = None
        if part.kind == "linear" and isinstance(getattr(owner, "bias", None), nn.Parameter):
            at_bias = join(name.rpartition(".")[0], "bias")
            bias = Weight(f"{part.role}.bias", at_bias, owner, "bias", axes[:1], "vector")
        return Weight(part.role, name, owner, attribute, axes, part.kind, folded=stored.dim() > len(axes), bias=bias)

    def _parameter(self, paths: str) -> tuple[str, nn.Module, str] | None:
        """The parameter at a path from the body or else from the whole model."""
        inside = self.find.parameter(self.find.body_path, f"{paths.removesuffix('?')}?")
        return inside or self.find.parameter("", paths)

    def _first(self, names: str) -> str:
        """The first of "a|b" that is known, else the last; "a.last" is the latest of a.0, a.1, ..."""
        options = names.split("|")
        name = next((name for name in options if name in self.spaces), options[-1])
        if name.endswith(".last"):
            return [known for known in self.spaces if known.rpartition(".")[0] == name.removesuffix(".last")][-1]
        return name

    def _space(self, name: str, size: int | None) -> Space:
        if name not in self.spaces:
            if size is None:
                raise self.find.refusal(f"a part along the space {name!r}", "none")
            label, _, scope = name.partition(".")
            self.spaces[name] = Space(label, size, scope)
        return self.spaces[name]

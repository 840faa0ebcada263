"""Find what a declaration names in a model: modules, weights, norms, configuration values. Refuse what is not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pomona.anatomy.declaration import Factor, Fused, NormKind, Shape, Storage
from pomona.anatomy.guests import peeled
from pomona.anatomy.sizes import recorded
from pomona.anatomy.space import Axis, Space
from pomona.anatomy.weight import Norm, Runs, Weight
from pomona.ground.errors import UnsupportedModel


class Finder:
    """Finds the parts of one model by the paths of one declaration."""

    def __init__(self, model: Any, shape: Shape) -> None:
        self.model, self.shape = model, shape
        tower = None if shape.body is None else self.find("", shape.body)
        self.body: nn.Module = model.base_model if tower is None else tower[1]
        self.body_path = next(name for name, module in model.named_modules() if module is self.body)
        self.config = model.config if tower is None else tower[1].config
        self.recorded = recorded(self.config)

    # ---- configuration

    def field(self, name: str | None, default: Any = ...) -> Any:
        """A configuration value; absent or None gives `default`, and without a default an error."""
        value = None if name is None else getattr(self.config, name, None)
        if value is None:
            if default is ...:
                raise self.refusal(f"the configuration field {name!r}", "none")
            return default
        return value

    def size(self, space: str, scope: str, otherwise: int) -> int:
        """The size of a space: what the configuration records for it, see `sizes`, or what its fields say."""
        return self.recorded.get(scope, {}).get(space, otherwise)

    @property
    def residual(self) -> Space:
        """The space of the hidden states."""
        return Space("residual", self.size("residual", "", int(self.field(self.shape.fields.hidden_size))))

    def factor(self, declared: Factor | float | None, head_dim: int | None = None) -> float:
        """The value of a declared factor; 1 for None."""
        if declared is None:
            return 1.0
        if not isinstance(declared, Factor):
            return float(declared)
        if declared.when is not None and not self.field(declared.when, False):
            return 1.0
        fields = self.shape.fields
        if not isinstance(declared.of, str):
            base = declared.of
        elif declared.of == "head_dim" and head_dim is not None:
            base = float(head_dim)
        else:
            base = float(self.field(fields.hidden_size if declared.of == "hidden_size" else declared.of))
        return float(base**declared.power)

    def number(self, name: str | None) -> float | None:
        """A configuration value as a float; None when it is absent or None."""
        value = self.field(name, None)
        return None if value is None else float(value)

    # ---- modules

    def find(self, base: str, paths: str) -> tuple[str, nn.Module] | None:
        """The first of "a|b" that exists below the module `base`, with its path in the model."""
        root = self.model.get_submodule(base)
        for at in paths.removesuffix("?").split("|"):
            try:
                return peeled(join(base, at), root.get_submodule(at))
            except AttributeError:
                continue
        return None

    def has(self, base: str, path: str) -> bool:
        """Whether a module or a tensor is at a path below the module `base`."""
        parent, _, attribute = path.rpartition(".")
        found = self.find(base, parent)
        return found is not None and isinstance(getattr(found[1], attribute, None), nn.Module | Tensor)

    def need(self, base: str, paths: str) -> tuple[str, nn.Module]:
        """`find`, or a refusal."""
        found = self.find(base, paths)
        if found is None:
            raise self.refusal(f"a module at {join(base, paths)}", "none")
        return found

    def refusal(self, needs: str, found: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"{type(self.model).__name__} does not fit the shape {self.shape.name!r}",
            needs=needs,
            found=found,
            do="declare its own shape and call anatomy.register(shape)",
        )

    # ---- weights

    def linear(
        self,
        role: str,
        base: str,
        storage: Storage,
        outputs: tuple[Space, ...] | Axis,
        inputs: tuple[Space, ...],
        sizes: Mapping[str, int] | None = None,
        periods: int = 1,
    ) -> Weight:
        """A linear map held by a module.

        Args:
            storage: path of the module below `base`, and which part of its outputs.
            outputs: spaces whose product its outputs are, or their axis.
            sizes: outputs of each part of a fused module.
            periods: how often the parts repeat when they are interleaved (the number of key-value heads).
        """
        path, module = self.need(base, storage_path(storage))
        made = outputs if isinstance(outputs, Axis) else Axis(outputs)
        runs = None
        if isinstance(storage, Fused):
            assert sizes is not None
            runs = self._runs(path, storage, sizes, periods if storage.interleaved else 1, outputs_of(module))
        bias = None
        if getattr(module, "bias", None) is not None:
            bias = self._vector(f"{role}.bias", path, module, "bias", made, runs)
        return Weight(
            role=role,
            name=join(path, "weight"),
            owner=module,
            attribute="weight",
            axes=(made, Axis(inputs)),
            kind="linear",
            transposed=isinstance(module, Conv1D),
            runs=runs,
            bias=bias,
        )

    def expert_linear(
        self,
        role: str,
        base: str,
        storage: Storage,
        axes: tuple[Axis, Axis],
        experts: Space,
        sizes: Mapping[str, int],
        beside: bool = False,
    ) -> Weight:
        """The maps of all experts, held by a parameter (expert, outputs, inputs); see `Weight`."""
        path, _, attribute = storage_path(storage).rpartition(".")
        name, owner = self.need(base, path)
        stored = getattr(owner, attribute, None)
        if not isinstance(stored, nn.Parameter) or stored.dim() != 3 or stored.shape[0] != experts.size:
            found = "none" if stored is None else str(tuple(stored.shape))
            raise self.refusal(f"a parameter ({experts.size}, outputs, inputs) at {name}.{attribute}", found)
        runs = None
        if isinstance(storage, Fused):
            one = self._runs(f"{name}.{attribute}", storage, sizes, 1, int(stored.shape[1]))
            runs = Runs(experts.size, one.period, one.start, one.size)
        elif not beside:
            rows = int(stored.shape[1])
            runs = Runs(experts.size, rows, 0, rows)
        return Weight(
            role=role,
            name=join(name, attribute),
            owner=owner,
            attribute=attribute,
            axes=axes,
            kind="linear",
            runs=runs,
            beside=beside,
        )

    def parameter(self, base: str, paths: str) -> tuple[str, nn.Module, str] | None:
        """Name, owner and attribute of the first parameter of "a|b": of the weight of a module, or itself at the path.

        None when there is none and a trailing "?" allows for that.
        """
        for path in paths.removesuffix("?").split("|"):
            found = self.find(base, path)
            if found is not None and isinstance(getattr(found[1], "weight", None), nn.Parameter):
                return join(found[0], "weight"), found[1], "weight"
            parent, _, attribute = path.rpartition(".")
            found = self.find(base, parent)
            if found is not None and isinstance(getattr(found[1], attribute, None), nn.Parameter):
                return join(found[0], attribute), found[1], attribute
        if paths.endswith("?"):
            return None
        raise self.refusal(f"a parameter at {join(base, paths)}", "none")

    def table(self, role: str, base: str, at: str, rows: Space | str, features: Axis) -> Weight | None:
        """A table that is looked up by index: (rows, features). Rows given by name take the stored number."""
        found = self.parameter(base, at)
        if found is None:
            return None
        name, owner, attribute = found
        stored: nn.Parameter = getattr(owner, attribute)
        if isinstance(rows, str):
            rows = Space(rows, int(stored.shape[-2]), name.removesuffix(".weight"))
        axes, folded = (Axis((rows,)), features), stored.dim() > 2
        return Weight(role, name, owner, attribute, axes, "table", folded=folded)

    def vector(self, role: str, base: str, at: str | None, over: Axis) -> Weight | None:
        """A parameter with one side; None when it is not declared, or optional and absent."""
        found = None if at is None else self.parameter(base, at)
        if found is None:
            return None
        name, owner, attribute = found
        return Weight(role, name, owner, attribute, (over,), "vector", folded=getattr(owner, attribute).dim() > 1)

    def norm(self, role: str, base: str, at: str | None, over: Axis, kind: NormKind, offset: float) -> Norm | None:
        """A norm with its gain over `over`; None when it is not declared, or optional and absent."""
        found = None if at is None else self.find(base, at)
        if at is None or (at.endswith("?") and (found is None or isinstance(found[1], nn.Identity))):
            return None
        path, module = self.need(base, at)
        epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
        if epsilon is None or not isinstance(getattr(module, "weight", None), nn.Parameter):
            raise self.refusal(f"a norm with a gain and an epsilon at {path}", type(module).__name__)
        has_bias = getattr(module, "bias", None) is not None
        if isinstance(module, nn.RMSNorm):  # in the place of a LayerNorm, see `norms`
            kind, offset = "rms", 0.0
        return Norm(
            kind=kind,
            module=module,
            gain=self._vector(f"{role}.gain", path, module, "weight", over),
            bias=self._vector(f"{role}.bias", path, module, "bias", over) if has_bias else None,
            epsilon=float(epsilon),
            offset=offset,
        )

    def _vector(
        self, role: str, path: str, module: nn.Module, attribute: str, axis: Axis, runs: Runs | None = None
    ) -> Weight:
        name = join(path, attribute)
        return Weight(role=role, name=name, owner=module, attribute=attribute, axes=(axis,), kind="vector", runs=runs)

    def _runs(self, path: str, storage: Fused, sizes: Mapping[str, int], periods: int, stored: int) -> Runs:
        """Where a part lies among the `stored` outputs of its module."""
        lengths = {part: sizes[part] // periods for part in storage.parts}
        period = sum(lengths.values())
        if period * periods != stored:
            parts = " + ".join(f"{sizes[part]} ({part})" for part in storage.parts)
            raise self.refusal(f"{parts} outputs at {path}", str(stored))
        before = storage.parts[: storage.parts.index(storage.part)]
        return Runs(periods, period, sum(lengths[part] for part in before), lengths[storage.part])


def storage_path(storage: Storage) -> str:
    return storage.path if isinstance(storage, Fused) else storage


def join(base: str, path: str) -> str:
    return f"{base}.{path}" if base and path else base or path


def tensor_of(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def is_linear(module: nn.Module) -> bool:
    """Whether a module is one linear map."""
    return isinstance(module, nn.Linear | Conv1D)


def outputs_of(module: nn.Module) -> int:
    """Number of outputs of a linear module."""
    return int(tensor_of(module).shape[1 if isinstance(module, Conv1D) else 0])


def inputs_of(module: nn.Module) -> int:
    """Number of inputs of a linear module."""
    return int(tensor_of(module).shape[0 if isinstance(module, Conv1D) else 1])

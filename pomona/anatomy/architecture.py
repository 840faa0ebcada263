"""Architecture: what a model class builds from a configuration, and how a living model takes on another one.

`build` makes a model without values: parameters on the meta device, buffers computed. The difference between what the
present configuration builds and what another one builds says what an edit has to change besides parameters: numbers in
modules, buffers, fields of configurations. So no table of a family's attributes is needed, and what is saved is by
construction what is built when it is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from pomona.anatomy import norms as norming
from pomona.anatomy import sizes as sizing
from pomona.ground.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


_GROUPS = ("_parameters", "_buffers", "_modules")
_INTERNALS = frozenset(vars(nn.Module()))
"""What every module keeps about itself; never part of an architecture."""


def sized(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The same class, but its instances have the sizes and norms that their configuration records (see `sizes`)."""

    class Sized(model_class):  # type: ignore[misc]
        def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
            from pomona.anatomy.body import of

            towers = [config, *(part for name in config.sub_configs if (part := getattr(config, name)) is not None)]
            records = [
                (own, sizing.recorded(own), norming.recorded(own), vars(own).pop(sizing.RECORD, None)) for own in towers
            ]
            super().__init__(config, *args, **kwargs)
            for own, sizes, norms, record in records:
                if record is not None:
                    body = of(self, record.get("shape"))
                    sizing.apply_(body, sizes)
                    if norms is not None:
                        norming.apply_(body, norms)
                    setattr(own, sizing.RECORD, record)

    Sized.__name__, Sized.__qualname__, Sized.__module__ = (
        model_class.__name__,
        model_class.__qualname__,
        model_class.__module__,
    )
    return Sized


def build(model_class: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """What `model_class` builds from a copy of `config`: parameters on the meta device, buffers computed on the CPU."""
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            model: PreTrainedModel = sized(model_class)(copy.deepcopy(config))
        model.__class__ = model_class
        for module in model.modules():
            buffers = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
            for name in buffers:
                buffer = module._buffers[name]
                assert buffer is not None
                module._buffers[name] = torch.full_like(buffer, _UNSET[buffer.is_floating_point()], device="cpu")
            if buffers:
                model._init_weights(module)
    return model.eval()


_UNSET = {True: float("nan"), False: -1}
"""What a buffer holds that nothing has computed."""


def tower_of(model: PreTrainedModel, config: PretrainedConfig) -> str | None:
    """Under which name a model's configuration holds the `config` of one of its towers; None when it is its own."""
    if type(config) is type(model.config):
        return None
    names: dict[str, type] = model.config.sub_configs
    return next(name for name, kind in names.items() if isinstance(config, kind))


def reread(config: PretrainedConfig, changes: Mapping[str, Any], tower: str | None = None) -> PretrainedConfig:
    """The configuration that is read after `config` with these fields has been saved.

    Args:
        tower: the part of it that changes, see `tower_of`.
    Raises:
        ValueError, TypeError: transformers refuses the values.
    """
    values = config.to_dict()
    own, part = (config, values) if tower is None else (getattr(config, tower), values[tower])
    part.update({own.attribute_map.get(name, name): value for name, value in changes.items()})
    stages = part.pop("stage_names", None)  # of a backbone: they follow from the depth
    if stages and part.get("out_features") == stages[-1:]:  # so does which is the last
        del part["out_features"], part["out_indices"]
    try:
        found: PretrainedConfig = type(config).from_dict(values)
    except StrictDataclassError as error:
        raise ValueError(str(error)) from error
    found._attn_implementation = config._attn_implementation
    found._experts_implementation = config._experts_implementation
    return found


def require_as_built(model: PreTrainedModel, built: PreTrainedModel) -> None:
    """Refuse a model whose parameters are not those that its configuration builds: adapters, packed weights."""
    own, expected = _layout(model), _layout(built)
    different = sorted(name for name in {*own, *expected} if own.get(name) != expected.get(name))
    if different:
        raise UnsupportedModel(
            f"{type(model).__name__} cannot be edited (nothing was changed)",
            needs="the parameters that its configuration builds, tied as it says",
            found=f"others at {', '.join(different[:3])}" + (" ..." if len(different) > 3 else ""),
            do="merge adapters and unpack quantized weights first",
        )


def _layout(model: nn.Module) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name of each parameter -> its shape and the first name that it is known by."""
    first: dict[int, str] = {}
    return {
        name: (tuple(parameter.shape), first.setdefault(id(parameter), name))
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def transplant_(
    model: PreTrainedModel, old: PreTrainedModel, new: PreTrainedModel, parameters: Mapping[str, nn.Parameter]
) -> None:
    """Make `model`, which is what `old` was built as, what `new` was built as. Modules stay the same objects.

    Args:
        parameters: state-dict name -> the parameter that `model` shall hold under it; all of its names.
    """
    was, becomes = dict(old.named_modules()), dict(new.named_modules())
    for path, module in model.named_modules():
        before, after = was[path], becomes[path]
        for name in module._parameters:
            full = f"{path}.{name}" if path else name
            if full in parameters:
                module._parameters[name] = parameters[full]
        follow_numbers(module, before, after)
        for name, buffer in after._buffers.items():
            module._buffers[name] = _buffer(module._buffers.get(name), before._buffers.get(name), buffer, path, name)
    follow_configs(model, old, new)


def follow_numbers(module: nn.Module, before: nn.Module, after: nn.Module) -> None:
    """Set the plain values of `module` in which `after` differs from `before`."""
    own = _numbers(before)
    for name, value in _numbers(after).items():
        if own.get(name, ...) != value:
            setattr(module, name, value)


def follow_configs(model: nn.Module, before: nn.Module, after: nn.Module) -> None:
    """Set the fields of every configuration in `model` in which `after` differs from `before`."""
    was, becomes = dict(before.named_modules()), dict(after.named_modules())
    done: set[int] = set()
    for path, module in model.named_modules():
        config = getattr(module, "config", None)
        if config is not None and id(config) not in done and path in was and path in becomes:
            done.add(id(config))
            _follow_config(config, was[path].config, becomes[path].config)


def _numbers(module: nn.Module) -> dict[str, Any]:
    """The plain values that a module keeps."""
    return {
        name: value
        for name, value in vars(module).items()
        if name not in _INTERNALS and not name.startswith("_") and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _buffer(own: Tensor | None, before: Tensor | None, after: Tensor | None, path: str, name: str) -> Tensor | None:
    """The buffer that a module shall hold: its own, unless the two architectures differ in it."""
    if after is None or own is None or (before is not None and _same(before, after)):
        return own
    if bool(after.isnan().any() if after.is_floating_point() else (after == _UNSET[False]).all()):
        raise UnsupportedModel(
            "the edit changes a buffer whose values are not known (nothing was changed)",
            where=f"{path}.{name}",
            do="leave this size as it is",
        )
    return after.to(own.device, own.dtype if own.is_floating_point() else after.dtype)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one.nan_to_num(), other.nan_to_num()))


def _follow_config(config: PretrainedConfig, before: PretrainedConfig, after: PretrainedConfig) -> None:
    """Set the fields of `config` in which `after` differs from `before`, also in its parts."""
    old, new = before.to_dict(), after.to_dict()
    # Properties come last: setting them is checked against the plain fields.
    for name in sorted({*old, *new}, key=lambda name: (isinstance(getattr(type(config), name, None), property), name)):
        if name in config.sub_configs and getattr(config, name) is not None:
            _follow_config(getattr(config, name), getattr(before, name), getattr(after, name))
        elif name not in new:
            vars(config).pop(name, None)
        elif name not in old or old[name] != new[name]:
            setattr(config, name, copy.deepcopy(getattr(after, name, new[name])))


@contextmanager
def restored_on_error(model: nn.Module) -> Iterator[None]:
    """Within the block, changes of modules, parameters, buffers and configurations are undone when it raises.

    Values inside of tensors are not kept: what is edited must be replaced, not written to.
    """
    modules = [
        (module, dict(vars(module)), {name: dict(vars(module)[name]) for name in _GROUPS}) for module in model.modules()
    ]
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    fields = [(config, _copied(config)) for config in configs.values()]
    try:
        yield
    except BaseException:
        for module, values, groups in modules:
            vars(module).clear()
            vars(module).update(values)
            for name, group in groups.items():
                vars(module)[name].clear()
                vars(module)[name].update(group)
        for config, kept_fields in fields:
            vars(config).clear()
            vars(config).update(kept_fields)
        raise


def _copied(config: PretrainedConfig) -> dict[str, Any]:
    """The fields of a configuration; its parts stay the same objects."""
    return {name: value if name in config.sub_configs else copy.deepcopy(value) for name, value in vars(config).items()}

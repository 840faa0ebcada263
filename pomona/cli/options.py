"""From a stage's fields to a command's options. The field's docstring is the help, pydantic does the checking."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pomona.catalog import MethodOf
from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError
from pomona.ground.yaml import parse_scalar
from pomona.stages import Stage, stage_class

POSITIONAL = {
    "corpus": "sources",
    "tokenize": "from",
    "examples": "sources",
    "images": "source",
    "select": "data",
    "pretrain": "data",
    "continue": "from",
    "distil": "teacher",
    "grow": "from",
    "convert": "from",
    "merge": "experts",
    "prune": "from",
    "adapt": "from",
    "learn": "from",
    "quantize": "from",
    "probe": "models",
    "attack": "from",
    "examine": "models",
    "export": "from",
}
"""The field that a command takes without a dash."""
METAVARS = {
    "from": "MODEL",
    "teacher": "TEACHER",
    "source": "SOURCE",
    "sources": "SOURCE...",
    "models": "MODEL...",
    "experts": "EXPERT...",
    "data": "DATA",
}


def command_for(verb: str, action: Callable[[str, dict[str, Any], str], None]) -> Callable[..., None]:
    """A function with typer's annotations whose call gathers the given values for `action(verb, values, out)`."""
    stage = stage_class(verb)
    fields = {field.alias or name: field for name, field in stage.model_fields.items() if name != "name"}
    parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    keys: dict[str, str] = {}
    for key, field in fields.items():
        python_name = f"value_{key}"
        keys[python_name] = key
        parameters.append(_parameter(verb, key, python_name, field))
    out = Annotated[str, typer.Option("--out", metavar="FOLDER", help="The folder that is made.")]
    parameters.append(inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, annotation=out))

    def command(context: typer.Context, **given: Any) -> None:
        values: dict[str, Any] = {}
        for python_name, key in keys.items():
            value = given[python_name]
            if value is None or value == []:
                continue
            values[key] = [parse_scalar(word) for word in value] if isinstance(value, list) else parse_scalar(value)
            if is_many(fields[key]) and not isinstance(values[key], list):
                values[key] = [values[key]]
        for key, value in extra_values(context.args, stage).items():
            values = _set(values, key.split("."), value)
        action(verb, values, given["out"])

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__name__ = verb
    command.__doc__ = _help(stage)
    return command


def extra_values(words: list[str], stage: type[Stage]) -> dict[str, Any]:
    """Options that are not the stage's own: a method's parameters (`--factor 2`) and nested keys (`--engine.clip 1`).

    Raises:
        ConfigError: a word that is no option.
    """
    values: dict[str, Any] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(
                f"unexpected argument {word!r}", do=f"options of {stage.verb} are of the form --name value"
            )
        name, equals, text = word[2:].partition("=")
        if equals:
            value = parse_scalar(text)
        else:
            value = parse_scalar(words.pop(0)) if words and not words[0].startswith("--") else True
        values[name.replace("-", "_")] = value
    return values


def is_many(field: FieldInfo) -> bool:
    """Whether a field takes a tuple."""
    return any(get_origin(option) is tuple for option in (field.annotation, *get_args(field.annotation)))


def _parameter(verb: str, key: str, python_name: str, field: FieldInfo) -> inspect.Parameter:
    positional = POSITIONAL.get(verb) == key
    help_text = (field.description or "").replace("\n", " ")
    default = _shown_default(field)
    if default:
        help_text += f" \\[default: {default}]"
    metavar = _metavar(field)
    if positional:
        metavar = "CORPUS" if verb == "tokenize" else METAVARS.get(key, metavar)
        info = typer.Argument(metavar=metavar, help=help_text, show_default=False)
    else:
        info = typer.Option(f"--{key.replace('_', '-')}", metavar=metavar, help=help_text, show_default=False)
    annotation: Any = Annotated[list[str] | None if positional and is_many(field) else str | None, info]
    required = positional and field.is_required()
    return inspect.Parameter(
        python_name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=annotation if not required else Annotated[list[str] if is_many(field) else str, info],
        default=inspect.Parameter.empty if required else None,
    )


def _metavar(field: FieldInfo) -> str:
    """What a value looks like."""
    if _is_method(field):
        return "METHOD"
    options = _options(field.annotation)
    choices = [str(choice) for option in options if get_origin(option) is Literal for choice in get_args(option)]
    if choices:
        return "|".join(choices)
    names = {int: "N", float: "X", str: "TEXT", bool: "true|false", dict: "{...}"}
    for option in options:
        base = get_origin(option) or option
        if base in names:
            return names[base]
        if base is tuple:
            return "A,B,..."
        if isinstance(base, type) and issubclass(base, BaseModel):
            return "{...}"
    return "VALUE"


def _is_method(field: FieldInfo) -> bool:
    """Whether a field holds a method, or a method or nothing."""
    inner = [item for option in get_args(field.annotation) for item in getattr(option, "__metadata__", ())]
    return any(isinstance(item, MethodOf) for item in (*field.metadata, *inner))


def _options(annotation: Any) -> list[Any]:
    """The alternatives of a type, without None and without annotations around them."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for option in get_args(annotation) if option is not type(None) for inner in _options(option)]
    return [annotation]


def _shown_default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined or default is None or default in ((), {}, ""):
        return ""
    if isinstance(default, MethodConfig):
        return default.method
    return ("true" if default else "false") if isinstance(default, bool) else str(default)


def _help(stage: type[Stage]) -> str:
    text = inspect.getdoc(stage) or ""
    if stage.flat is not None:
        text += "\n\nThe method's parameters are options too, as `pomona methods SLUG` lists them: --NAME VALUE."
    nested = [name for name, field in stage.model_fields.items() if _metavar(field) == "METHOD"]
    if nested and stage.flat is None:
        text += f"\n\nParameters of a method, as `pomona methods SLUG` lists them: --{nested[-1]}.NAME VALUE."
    return text


def _set(values: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    head, *rest = keys
    if not rest:
        return {**values, head: value}
    inner = values.get(head)
    here = {"method": inner} if isinstance(inner, str) else dict(inner or {})
    return {**values, head: _set(here, rest, value)}

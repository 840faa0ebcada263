"""The base of every configuration: frozen, keyword-only, unknown keys refused with a suggestion.

One class is the YAML stage, the command's options and the documentation table at once; the text under a field
is its only description.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pomona.ground.errors import ConfigError, Problem, did_you_mean, raise_problems


class Config(BaseModel):
    """A frozen set of validated values."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @classmethod
    def parse(cls, values: Any, where: str = "") -> Self:
        """Validate `values` and report every problem at once as a `ConfigError`."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise_problems(problems_of(error, cls, where or cls.__name__), f"{where or cls.__name__} is not valid")
            raise  # unreachable: a ValidationError holds at least one problem


class MethodConfig(Config):
    """The parameters of one published method.

    A subclass sets `method: Literal["slug"] = "slug"` and lives in the method's own file; the catalog's
    `implements` names that file, so no list in the code has to be extended.
    """

    method: str


def problems_of(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[Problem]:
    """Turn pydantic's errors into problems with a path and, for an unknown key, the nearest known ones."""
    problems = []
    for item in error.errors(include_url=False):
        location = item["loc"]
        where = ".".join([*([prefix] if prefix else []), *(str(part) for part in location)])
        if item["type"] == "extra_forbidden":
            known = _fields_at(model, location[:-1])
            problems.append(Problem(where, f"unknown key {location[-1]!r}", did_you_mean(str(location[-1]), known)))
        elif item["type"] == "named":  # a problem that brought its own words and remedy
            problems.append(Problem(where, item["ctx"]["what"], item["ctx"]["do"]))
        elif item["type"] == "missing":
            problems.append(Problem(where, "is required and absent"))
        else:
            given = item.get("input")
            shown = f" (got {given!r})" if isinstance(given, str | int | float | bool | None) else ""
            problems.append(Problem(where, item["msg"].removeprefix("Value error, ") + shown))
    return problems


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the (possibly nested) model that `location` points to."""
    here: Any = model
    for part in location:
        field = getattr(here, "model_fields", {}).get(part)
        if field is None:
            continue  # a union tag or a list index
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        here = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), here)
    return list(getattr(here, "model_fields", {}))


__all__ = ["Config", "ConfigError", "MethodConfig", "problems_of"]

"""Fields that hold a method: `optimizer: conda` and `optimizer: {method: conda, learning_rate: 0.01}`.

    class Pretrain(Config):
        optimizer: Optimizer = ...

The value becomes the method's own `MethodConfig`; every wrong parameter is reported under its own path. Validation
imports the module of the method that is named, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from pomona.catalog.kinds import Kind
from pomona.catalog.listing import config_class, find
from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class MethodOf:
    """Annotation of a field whose value is a method of one kind."""

    kind: Kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_plain),
        )

    def validate(self, value: Any) -> MethodConfig:
        """The method's parameters. Raises pydantic's errors, all of them, with paths below this field."""
        if isinstance(value, MethodConfig):
            find(value.method, self.kind)
            return value
        values = {"method": value} if isinstance(value, str) else value
        if not isinstance(values, Mapping):
            raise PydanticCustomError("method", "should be the name of a method, or a mapping with `method`")
        slug = values.get("method")
        if not isinstance(slug, str):
            raise ValidationError.from_exception_data(
                self.kind, [InitErrorDetails(type="missing", loc=("method",), input=values)]
            )
        try:
            model = config_class(self.kind, slug)
        except ConfigError as error:
            raise ValidationError.from_exception_data(
                self.kind,
                [InitErrorDetails(type=_custom(error.what, error.do or ""), loc=("method",), input=slug)],
            ) from None
        default = model.model_fields["method"].default
        try:
            return model.model_validate({**values, "method": default})
        except ValidationError as error:
            raise ValidationError.from_exception_data(self.kind, _with_suggestions(error, model)) from None


def _with_suggestions(error: ValidationError, model: type[MethodConfig]) -> list[InitErrorDetails]:
    """The same errors, unknown keys with the nearest names of this method's parameters."""
    details = []
    for item in error.errors(include_url=False):
        kind: Any = item["type"]
        if kind == "extra_forbidden" and len(item["loc"]) == 1:
            name = str(item["loc"][0])
            kind = _custom(f"unknown key {name!r}", did_you_mean(name, set(model.model_fields) - {"method"}))
        context = item.get("ctx", {})
        if kind == "value_error":
            kind = _custom(str(context.get("error", item["msg"])), "")
        details.append(InitErrorDetails(type=kind, loc=item["loc"], input=item["input"], ctx=context))
    return details


def _custom(what: str, do: str) -> PydanticCustomError:
    return PydanticCustomError("named", "{what}", {"what": what, "do": do})


def _plain(method: MethodConfig) -> Any:
    return method.model_dump(mode="json")


Optimizer = Annotated[MethodConfig, MethodOf("optimizer")]
ObjectiveMethod = Annotated[MethodConfig, MethodOf("objective")]
ScheduleMethod = Annotated[MethodConfig, MethodOf("schedule")]
Growth = Annotated[MethodConfig, MethodOf("growth")]
Sparsity = Annotated[MethodConfig, MethodOf("sparsity")]
Distillation = Annotated[MethodConfig, MethodOf("distillation")]
Conversion = Annotated[MethodConfig, MethodOf("conversion")]
Quantization = Annotated[MethodConfig, MethodOf("quantization")]
AdapterMethod = Annotated[MethodConfig, MethodOf("adapter")]
Continual = Annotated[MethodConfig, MethodOf("continual")]
Probing = Annotated[MethodConfig, MethodOf("probe")]
Attacking = Annotated[MethodConfig, MethodOf("attack")]
Benchmark = Annotated[MethodConfig, MethodOf("benchmark")]
Merging = Annotated[MethodConfig, MethodOf("merging")]
Selection = Annotated[MethodConfig, MethodOf("selection")]
Accelerator = Annotated[MethodConfig, MethodOf("accelerator")]

"""Fields whose configuration lives in a module that is slow to import: it is imported when a value is validated."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from pomona.ground.errors import did_you_mean


@dataclass(frozen=True)
class Imported:
    """Annotation of a field whose class is named instead of imported: `Imported("pomona.engine.fit:FitConfig")`."""

    target: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.model_dump(mode="json")),
        )

    def load(self) -> type[BaseModel]:
        """The class."""
        module, _, name = self.target.partition(":")
        found: type[BaseModel] = getattr(importlib.import_module(module), name)
        return found

    def validate(self, value: Any) -> BaseModel:
        """The value as that class; unknown keys with the nearest names."""
        model = self.load()
        try:
            return model.model_validate(value)
        except ValidationError as error:
            details = []
            for item in error.errors(include_url=False):
                kind: Any = item["type"]
                if kind == "extra_forbidden" and len(item["loc"]) == 1:
                    name = str(item["loc"][0])
                    context = {"what": f"unknown key {name!r}", "do": did_you_mean(name, model.model_fields)}
                    kind = PydanticCustomError("named", "{what}", context)
                details.append(
                    InitErrorDetails(type=kind, loc=item["loc"], input=item["input"], ctx=item.get("ctx", {}))
                )
            raise ValidationError.from_exception_data(model.__name__, details) from None

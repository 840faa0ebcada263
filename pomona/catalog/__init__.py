"""The catalog: which methods there are, where they live, and how a recipe names them.

Listing reads YAML and source text only; a method's module is imported when its parameters are validated.

Other packages join with an entry point in the group `pomona.methods` whose value is the name of a package (or of a
sub-package) that holds a `catalog.yaml` of the same form:

    [project.entry-points."pomona.methods"]
    orchard = "orchard.methods"
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pomona.ground.lazy import names_from

if TYPE_CHECKING:
    from pomona.catalog.cards import Parameter, card, parameters
    from pomona.catalog.field import (
        Conversion,
        Growth,
        Merging,
        MethodOf,
        ObjectiveMethod,
        Optimizer,
        Quantization,
        ScheduleMethod,
        Sparsity,
    )
    from pomona.catalog.listing import KINDS, Kind, Row, config_class, find, rows, source_file

__getattr__ = names_from(
    __name__,
    {
        "Conversion": "field",
        "KINDS": "listing",
        "Growth": "field",
        "Kind": "listing",
        "Merging": "field",
        "MethodOf": "field",
        "ObjectiveMethod": "field",
        "Optimizer": "field",
        "Parameter": "cards",
        "Quantization": "field",
        "Row": "listing",
        "ScheduleMethod": "field",
        "Sparsity": "field",
        "card": "cards",
        "config_class": "listing",
        "find": "listing",
        "parameters": "cards",
        "rows": "listing",
        "source_file": "listing",
    },
)

__all__ = [
    "KINDS",
    "Conversion",
    "Growth",
    "Kind",
    "Merging",
    "MethodOf",
    "ObjectiveMethod",
    "Optimizer",
    "Parameter",
    "Quantization",
    "Row",
    "ScheduleMethod",
    "Sparsity",
    "card",
    "config_class",
    "find",
    "parameters",
    "rows",
    "source_file",
]

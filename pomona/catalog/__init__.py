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
        Accelerator,
        AdapterMethod,
        Attacking,
        Benchmark,
        Continual,
        Conversion,
        Distillation,
        Growth,
        Merging,
        MethodOf,
        ObjectiveMethod,
        Optimizer,
        Probing,
        Quantization,
        ScheduleMethod,
        Selection,
        Sparsity,
    )
    from pomona.catalog.kinds import KINDS, MODALITIES, STAGES, Kind, Modality
    from pomona.catalog.listing import STATUSES, Row, Status, config_class, find, rows, select, source_file

__getattr__ = names_from(
    __name__,
    {
        "KINDS": "kinds",
        "MODALITIES": "kinds",
        "STAGES": "kinds",
        "STATUSES": "listing",
        "Accelerator": "field",
        "AdapterMethod": "field",
        "Attacking": "field",
        "Benchmark": "field",
        "Continual": "field",
        "Conversion": "field",
        "Distillation": "field",
        "Growth": "field",
        "Kind": "kinds",
        "Merging": "field",
        "MethodOf": "field",
        "Modality": "kinds",
        "ObjectiveMethod": "field",
        "Optimizer": "field",
        "Parameter": "cards",
        "Probing": "field",
        "Quantization": "field",
        "Row": "listing",
        "ScheduleMethod": "field",
        "Selection": "field",
        "Sparsity": "field",
        "Status": "listing",
        "card": "cards",
        "config_class": "listing",
        "find": "listing",
        "parameters": "cards",
        "rows": "listing",
        "select": "listing",
        "source_file": "listing",
    },
)

__all__ = [
    "KINDS",
    "MODALITIES",
    "STAGES",
    "STATUSES",
    "Accelerator",
    "AdapterMethod",
    "Attacking",
    "Benchmark",
    "Continual",
    "Conversion",
    "Distillation",
    "Growth",
    "Kind",
    "Merging",
    "MethodOf",
    "Modality",
    "ObjectiveMethod",
    "Optimizer",
    "Parameter",
    "Probing",
    "Quantization",
    "Row",
    "ScheduleMethod",
    "Selection",
    "Sparsity",
    "Status",
    "card",
    "config_class",
    "find",
    "parameters",
    "rows",
    "select",
    "source_file",
]

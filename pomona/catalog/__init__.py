"""The catalog: which methods there are, where they live, and how a recipe names them.

Listing reads YAML and source text only; a method's module is imported when its parameters are validated.

Other packages join with an entry point in the group `pomona.methods` whose value is the name of a package (or of a
sub-package) that holds a `catalog.yaml` of the same form:

    [project.entry-points."pomona.methods"]
    orchard = "orchard.methods"
"""

from pomona.catalog.card import card, first_sentence
from pomona.catalog.field import Growth, MethodOf, ObjectiveMethod, Optimizer, Quantization, ScheduleMethod
from pomona.catalog.listing import KINDS, Kind, Row, config_class, find, rows

__all__ = [
    "KINDS",
    "Growth",
    "Kind",
    "MethodOf",
    "ObjectiveMethod",
    "Optimizer",
    "Quantization",
    "Row",
    "ScheduleMethod",
    "card",
    "config_class",
    "find",
    "first_sentence",
    "rows",
]

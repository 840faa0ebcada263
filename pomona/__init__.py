"""pomona: the whole life of a pre-trained transformer under a compute budget.

    import pomona

    run = pomona.run("demo")                                   # a recipe: a name, a YAML file, or plain values
    pomona.grow("runs/small", method="g-stack", factor=2, out="runs/grown")
    print(pomona.generate("runs/grown", "The module")[0].text)

Importing this is fast: names are looked up when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pomona.ground.quiet import leave_out_remarks_of_torchao

if TYPE_CHECKING:
    from pathlib import Path

    from pomona import anatomy, catalog, data, engine, stages
    from pomona.stages import Artefact, Recipe, Run, load, run

__version__ = "0.1.0"

leave_out_remarks_of_torchao()

_ROOMS = ("anatomy", "catalog", "continual", "conversion", "data", "distillation", "engine", "examination", "ground",
          "growth", "merging", "objectives", "optimizers", "quantization", "runtime", "schedules", "sparsity",
          "stages")  # fmt: skip
_NAMES = {"Artefact": "stages", "Recipe": "stages", "Run": "stages", "load": "stages", "run": "stages"}


def _stage(verb: str, primary: str) -> Any:
    """The Python call of a stage: `grow(model, method="g-stack", out="grown")`."""

    def call(*inputs: str | Path, out: str | Path, **values: Any) -> Artefact:
        from pomona import stages

        given = [str(value) for value in inputs]
        if given:
            values[primary] = given[0] if len(given) == 1 and primary not in ("models", "experts") else given
        return stages.call(verb, values, out)

    call.__name__ = call.__qualname__ = verb
    call.__doc__ = f"Run the stage `{verb}` on folders, into the folder `out`. Values are those of the recipe's stage."
    return call


_CALLS = {
    "corpus": ("corpus", "sources"),
    "tokenize": ("tokenize", "from"),
    "images": ("images", "source"),
    "pretrain": ("pretrain", "data"),
    "continue_": ("continue", "from"),
    "grow": ("grow", "from"),
    "convert": ("convert", "from"),
    "distil": ("distil", "teacher"),
    "merge": ("merge", "experts"),
    "prune": ("prune", "from"),
    "quantize": ("quantize", "from"),
    "examine": ("examine", "models"),
    "export": ("export", "from"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"pomona.{name}")
    if name in _NAMES:
        return getattr(import_module(f"pomona.{_NAMES[name]}"), name)
    if name in _CALLS:
        return _stage(*_CALLS[name])
    if name == "generate":
        return import_module("pomona.runtime").generate
    raise AttributeError(f"module 'pomona' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", "generate", *_ROOMS, *_NAMES, *_CALLS})


__all__ = ["Artefact", "Recipe", "Run", "__version__", "anatomy", "catalog", "data", "engine", "load", "run", "stages"]

"""`attack`: try a classifier on texts that were changed to turn its answers."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from pomona.catalog import Attacking
from pomona.stages.base import ArtefactKind, Forecast, Job, Made, Need, Stage, View


class AttackStage(Stage):
    """Try to turn the answers of a classifier by changes that keep what texts mean."""

    verb = "attack"
    makes: ClassVar[ArtefactKind] = "finding"
    flat = "method"
    seeded = True

    from_: str | None = Field(default=None, alias="from")
    """The classifier: name of a stage, or a folder."""
    generator: str
    """The masked language model that says what is natural: name of a stage, or a folder."""
    examples: str | None = None
    """The labelled texts, of which the held-out side is attacked: name of a stage, or a folder."""
    texts: PositiveInt = 100
    """How many of them."""
    method: Attacking = Field(default="alert-attack", validate_default=True)
    """How they are changed; the method's own parameters stand beside it."""
    seed: NonNegativeInt | None = None
    """Of everything random. Default: the recipe's."""

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("from", "model", (self.from_,) if self.from_ else ()),
            Need("generator", "model", (self.generator,)),
            Need("examples", "examples", (self.examples,) if self.examples else ()),
        )

    def plan(self, view: View) -> Forecast:
        facts = view.known("generator", "facts") or {}
        objective = view.known("generator", "objective") or facts.get("objective")
        name = objective.get("method") if isinstance(objective, dict) else getattr(objective, "method", None)
        if name is not None and name != "masked-lm":
            view.problem("generator", f"it was trained for {name}", "name a model that was trained for masked-lm")
        return Forecast(note=f"{self.method.method} on {self.texts} texts")

    def make(self, job: Job) -> Made:
        from pomona.engine import Ledger
        from pomona.ground.files import write_json
        from pomona.tasks import Examples

        report = self.method.attack_folders(  # type: ignore[attr-defined]
            job.input("from").folder,
            job.input("generator").folder,
            Examples.open(job.input("examples").folder),
            texts=self.texts,
            seed=job.seed,
        )
        write_json(job.folder / "attack.json", report.to_dict())
        ledger = Ledger()
        ledger.charge("attack", seconds=report.seconds)
        numbers = {name: value for name, value in report.numbers.items() if value == value}
        return Made({"numbers": numbers, "note": f"{self.method.method}, {len(report.attempts)} texts"}, ledger)

"""`pomona new`: the three files of a new method and its row, ready to be filled in.

What is written does not pass: the card has gaps, the functions raise, the tests fail. That is the list of what to do.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pomona.catalog.kinds import KINDS, Kind
from pomona.catalog.listing import normal, rows
from pomona.ground.errors import ConfigError, did_you_mean
from pomona.ground.files import write_text


@dataclass(frozen=True)
class Mould:
    """What is particular about a kind.

    Attributes:
        room: where its methods live.
        methods: of its configurations, as they are written.
        imports: what their signatures name, `module: names`.
        base: `module:name` of what its configurations inherit from.
    """

    room: str
    methods: tuple[str, ...]
    imports: Mapping[str, str]
    base: str = "pomona.ground.config:MethodConfig"


MODEL = {"transformers": "PreTrainedModel"}
APPLY = Mould("", ("apply_(self, model: PreTrainedModel) -> None",), MODEL)
MOULDS: dict[Kind, Mould] = {
    "objective": Mould(
        "objectives",
        ("build(self, tokenizer: PreTrainedTokenizerBase) -> Objective",),
        {"transformers": "PreTrainedTokenizerBase", "pomona.engine": "Objective"},
    ),
    "optimizer": Mould(
        "optimizers",
        ("build(self, body: Anatomy, *, total_steps: int) -> Optimizer",),
        {"torch.optim": "Optimizer", "pomona.anatomy": "Anatomy"},
    ),
    "schedule": Mould("schedules", ("build(self, total_steps: int) -> Schedule",), {"pomona.engine": "Schedule"}),
    "growth": Mould(
        "growth",
        ("apply_(self, model: PreTrainedModel) -> GrowthReport",),
        {**MODEL, "pomona.growth.report": "GrowthReport"},
    ),
    "sparsity": Mould(
        "sparsity",
        (
            "check(self, body: Anatomy) -> None",
            "rehearse_(self, model: Any) -> Loader | None",
            "apply_(self, model: Any, batches: Sequence[Batch] = (), objective: Objective | None = None)"
            " -> SparsityReport",
        ),
        {
            "collections.abc": "Sequence",
            "typing": "Any",
            "pomona.anatomy": "Anatomy",
            "pomona.engine": "Batch, Objective",
            "pomona.sparsity.report": "Loader, SparsityReport",
        },
        base="pomona.sparsity.config:PruningConfig",
    ),
    "quantization": Mould(
        "quantization",
        ("apply_(self, model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> QuantizationReport",),
        {
            "collections.abc": "Iterable, Mapping",
            "torch": "Tensor",
            **MODEL,
            "pomona.quantization": "QuantizationReport",
        },
        base="pomona.quantization.config:GridConfig",
    ),
    "conversion": Mould(
        "conversion",
        ("apply_(self, model: PreTrainedModel) -> ConversionReport",),
        {**MODEL, "pomona.conversion.report": "ConversionReport"},
    ),
    "merging": Mould(
        "merging",
        ("merger(self, parents: Parents) -> TensorMerge",),
        {"pomona.merging.config": "Parents, TensorMerge"},
        base="pomona.merging.config:MergeConfig",
    ),
    "distillation": Mould(
        "distillation",
        (
            "check(self, student: Anatomy, teacher: Anatomy) -> None",
            "build(self, teacher: Teacher, task: Objective) -> Lesson",
        ),
        {
            "pomona.anatomy": "Anatomy",
            "pomona.distillation.lesson": "Lesson",
            "pomona.distillation.teacher": "Teacher",
            "pomona.engine": "Objective",
        },
        base="pomona.distillation.lesson:DistillationConfig",
    ),
    "adapter": Mould(
        "adapters",
        ("attach_(self, body: Anatomy, *, head: Sequence[nn.Parameter] = (), seed: int = 0) -> Adapter",),
        {
            "collections.abc": "Sequence",
            "torch": "nn",
            "pomona.adapters.adapter": "Adapter",
            "pomona.anatomy": "Anatomy",
        },
    ),
    "continual": Mould(
        "continual",
        ("learner(self, model: PreTrainedModel, adapt: Adapt | None = None, *, seed: int = 0) -> Learner",),
        {**MODEL, "pomona.continual.learner": "Adapt, Learner"},
        base="pomona.continual.config:ContinualConfig",
    ),
    "selection": Mould(
        "selection",
        ("scores(self, nats: Mapping[Role, NDArray[float32]], count: int) -> NDArray[float64]",),
        {
            "collections.abc": "Mapping",
            "numpy": "float32, float64",
            "numpy.typing": "NDArray",
            "pomona.selection.config": "Role",
        },
        base="pomona.selection.config:SelectionConfig",
    ),
    "accelerator": Mould(
        "runtime",
        (
            "check(self, body: Anatomy) -> None",
            "attach(self, model: Any) -> AbstractContextManager[Any]",
            "unlimited(self) -> Self",
        ),
        {
            "contextlib": "AbstractContextManager",
            "typing": "Any, Self",
            "pomona.anatomy": "Anatomy",
        },
        base="pomona.runtime.accelerator:AcceleratorConfig",
    ),
    "probe": Mould(
        "examination",
        (
            "check(self, bodies: Sequence[Anatomy]) -> None",
            "probe(self, subjects: Sequence[Subject], examples: Examples, *, seed: int = 0) -> ProbeReport",
        ),
        {
            "collections.abc": "Sequence",
            "pomona.anatomy": "Anatomy",
            "pomona.examination.probing": "ProbeReport, Subject",
            "pomona.tasks": "Examples",
        },
        base="pomona.examination.probing:ProbeConfig",
    ),
    "attack": Mould(
        "examination",
        ("attack(self, victim: Victim, fluency: Fluency, texts: Texts, *, seed: int = 0) -> AttackReport",),
        {"pomona.examination.attacking": "AttackReport, Fluency, Texts, Victim"},
        base="pomona.examination.attacking:AttackConfig",
    ),
    "benchmark": Mould(
        "examination",
        ("run(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> Any",),
        {"typing": "Any", "transformers": "PreTrainedTokenizerBase"},
    ),
}
"""Kinds with a room. What a configuration has to offer is tabled in CONTRIBUTING.md."""

METHOD = '''\
"""{title}: WHAT IT DOES, in one line.

Source: AUTHORS, "{title}", VENUE {year}{paper}.
Implements: EQUATIONS AND SECTIONS.
Deviations: none.
Use when: CONDITIONS. Cost: PASSES AND MEMORY.
Relations: EQUALS X WHEN ...; DIFFERS FROM Y BY ...
Limits: WHAT IT REFUSES.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from {base_module} import {base}

if TYPE_CHECKING:
    {imports}


class {name}Config({base}):
    """WHAT IT DOES, in the imperative."""

    method: Literal["{slug}"] = "{slug}"

    {methods}


def {function}() -> None:
    """The pure core: tensors and plain numbers in, tensors out. Shapes, units, range, errors, source."""
    raise NotImplementedError
'''

TEST = '''\
"""{title}: by hand, against a slow reference, at its limits, and what it refuses."""

from __future__ import annotations

from {module} import {name}Config, {function}


def test_by_hand() -> None:
    """Catches A WRONG SIGN OR FACTOR: numbers that are checked on paper."""
    {function}()
    raise AssertionError("write the numbers down")


def test_slow_reference() -> None:
    """Catches AN ERROR OF THE FAST PATH: plain loops in float64 over many seeds."""
    raise AssertionError("write the loops")


def test_limits() -> None:
    """Catches A CASE IN WHICH IT SHOULD DO NOTHING, or be exact."""
    raise AssertionError("name the limits")


def test_refusals() -> None:
    """Catches COMPUTE SPENT ON WHAT CANNOT WORK."""
    {name}Config()
    raise AssertionError("list what is refused, by the text of its remedy")
'''

CARD = '''\
"""{title} against ITS BASELINE, at EQUAL WHAT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pomona.evidence.assets import base_lm
from pomona.evidence.card import Arm, Card, Metric, Scale, Verdict

if TYPE_CHECKING:
    from pomona.evidence.table import Table
    from pomona.stages import Artefact


def arms(scale: Scale) -> Mapping[str, Arm]:
    """The recipe of each arm."""
    return {{"baseline": Arm(base_lm(scale), "baseline"), "{slug}": Arm(base_lm(scale))}}


def measure(made: Mapping[str, Artefact]) -> dict[str, float]:
    """The metrics of one arm at one seed."""
    return {{"loss": made["base"].facts["quality"]["nats_per_token"]}}


def judge(table: Table) -> Verdict:
    """See `CARD.rule`."""
    raise NotImplementedError


CARD = Card(
    slug="{slug}",
    claim="ONE SENTENCE.",
    equal="WHAT IS THE SAME IN ALL ARMS.",
    rule="Reproduced: WHEN. Partly: WHEN. Else not reproduced.",
    metrics=(Metric("loss", "held-out nats per token"),),
    arms=arms,
    measure=measure,
    judge=judge,
)
'''

STUB = '''\
def {signature}:
        """WHAT COMES OUT."""
        raise NotImplementedError
'''

ROW = """\
- slug: {slug}
  title: "{title}"
  kind: {kind}
  modality: [any]
  year: {year}
  arxiv: {arxiv}
  implements: {module}:{function}
  summary: SAY IN ONE LINE WHAT IT DOES.
  origin: published
"""


def scaffold(
    kind: str, slug: str, root: Path, *, title: str = "", year: int | None = None, arxiv: str | None = None
) -> list[Path]:
    """Write method, test and evidence card of a new method, and name its module in the catalog.

    Args:
        kind: a word of `KINDS` that has a room.
        slug: a planned row's, or a new one.
        root: of a checkout of the project.
        title, year, arxiv: of the paper; a planned row knows them.

    Returns:
        The files that were written; the catalog is the last.

    Raises:
        ConfigError: the kind is unknown, the method is there already, or `root` is no checkout.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown kind {kind!r}", do=did_you_mean(kind, KINDS))
    if kind not in MOULDS:
        raise ConfigError(f"a {kind} is not a method with parameters", do="write a recipe, or a module of its own")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug):
        raise ConfigError(f"{slug!r} is not a slug", needs="small letters, digits and dashes")
    catalog = root / "pomona/catalog.yaml"
    if not catalog.is_file():
        raise ConfigError(f"{root} is not a checkout of pomona", needs="pomona/catalog.yaml")
    known = next((row for row in rows() if normal(row.slug) == slug), None)
    if known is not None and known.kind != kind:
        raise ConfigError(f"{slug} is listed as a {known.kind}, not as a {kind}", do="use that kind, or mend the row")
    mould = MOULDS[kind]
    stem = slug.replace("-", "_")
    found = {
        "kind": kind,
        "slug": slug,
        "title": title or (known.title if known else slug),
        "year": year or (known.year if known else None) or "YEAR",
        "arxiv": f'"{arxiv}"' if arxiv else "null",
        "module": f"pomona.{mould.room}.{stem}",
        "name": "".join(part.capitalize() for part in stem.split("_")),
        "function": stem,
        "base_module": mould.base.partition(":")[0],
        "base": mould.base.partition(":")[2],
        "methods": "\n    ".join(STUB.format(signature=each) for each in mould.methods).rstrip(),
        "imports": imports_of(mould),
    }
    paper = arxiv or (known.arxiv if known else None)
    found["paper"] = f", arXiv:{paper}" if paper else ""
    files = {
        root / f"pomona/{mould.room}/{stem}.py": METHOD,
        root / f"tests/{mould.room}/test_{stem}.py": TEST,
        root / f"pomona/evidence/cards/{stem}.py": CARD,
    }
    if there := [str(file.relative_to(root)) for file in files if file.exists()]:
        raise ConfigError(f"{slug} is there already", found=", ".join(there), do="edit it")
    row = with_row(catalog.read_text(encoding="utf-8"), slug, ROW.format(**found), f"{found['module']}:{stem}")
    for file, template in files.items():
        write_text(file, template.format(**found))
    write_text(catalog, row)
    return [*files, catalog]


def imports_of(mould: Mould) -> str:
    """What a mould's signatures name: Python's own, other packages' and pomona's, apart."""

    def group(module: str) -> int:
        top = module.partition(".")[0]
        return 0 if top in sys.stdlib_module_names else 2 if top == "pomona" else 1

    groups = groupby(sorted(mould.imports, key=lambda module: (group(module), module)), key=group)
    blocks = [[f"    from {module} import {mould.imports[module]}" for module in modules] for _, modules in groups]
    return "\n\n".join("\n".join(block) for block in blocks).strip()


def with_row(text: str, slug: str, row: str, implements: str) -> str:
    """The catalog with a method's module named: in its planned row, or in a row of its own at its place."""
    head, *blocks = re.split(r"(?m)^(?=- slug: )", text)
    for index, block in enumerate(blocks):
        if block.startswith(f"- slug: {slug}\n"):
            blocks[index] = block.replace("  implements: null\n", f"  implements: {implements}\n")
            return head + "".join(blocks)
    keys = [place_of(block) for block in blocks]
    place = sum(key <= place_of(row) for key in keys)
    blocks = [block.rstrip("\n") + "\n" for block in blocks]
    blocks.insert(place, row)
    return head + "\n".join(blocks)


def place_of(block: str) -> tuple[int, int, str]:
    """What the catalog is ordered by: kind, year, slug."""
    slug, kind = re.search(r"^- slug: (.+)$", block, re.M), re.search(r"^  kind: (\w+)$", block, re.M)
    year = re.search(r"^  year: (\d+)$", block, re.M)
    assert slug is not None and kind is not None
    return list(KINDS).index(kind[1]), int(year[1]) if year else 0, slug[1]  # type: ignore[arg-type]

"""PTM re-use audit: what is known of a model before it is used again, what of it holds, and what could go wrong.

Source: Jiang et al., "An Empirical Study of Pre-Trained Model Reuse in the Hugging Face Deep Learning Model Registry",
ICSE 2023, arXiv:2303.02552.
Implements: the attributes of the study's decision process (provenance, reproducibility, portability; Sec. 4-5) and the
    challenges that it found (missing attributes, claims that do not hold, risks) as findings with what they rest on.
    Claims are compared only where dataset, split, task and metric agree; claimed minus measured comes with a percentile
    bootstrap interval over the items.
Deviations: the study asks practitioners and measures a registry; that its attributes can be audited automatically is
    our reading of it. No single score. A missing statement is a note, never called a risk.
Use when: a model from elsewhere, or one's own before it is published. Cost: one pass over the bytes; with data one
    evaluation, for classifiers also a pass for each word that is tried as a trigger.
Relations: judges a record of `ptmtorrent`. `pomona registry report` gives figures about many.
Limits: a backdoor behind anything but one word is not found; what is only said (training data, intended use) is not
    checked. Nothing is unpickled, and no code of the repository runs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from pomona.ground.config import MethodConfig
from pomona.ground.errors import DataError, PomonaError
from pomona.registry.behaviour import UNBUILDABLE, Item, Running
from pomona.registry.claims import Discrepancy, Measurement, check_claim
from pomona.registry.contents import Contents, read_text
from pomona.registry.packages import Found, find_packages
from pomona.registry.ptmtorrent import PtmtorrentConfig, record_of, settings_of
from pomona.registry.readme import SECTIONS
from pomona.registry.schema import Claim, Record
from pomona.registry.weights import Weights, is_weight_file, pointer_of, read_weights

Level = Literal["error", "warning", "note", "good"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note", "good")
"""`error`: it does not do what it says, or is not safe; `warning`: look at it; `note`: not said or not known."""
STAGES = {
    "re-usability": ("licence", "documentation", "portability", "code"),
    "selection": ("provenance", "claims", "lineage"),
    "evaluation": ("consistency", "reload", "claims", "leakage"),
    "deployment": ("files", "triggers", "portability"),
}
"""The steps of the study's decision process, and which attributes each consults."""
FORMATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
"""Number formats as configurations and as safetensors call them."""
NOT_RUN = ("damaged weights", "pointers", "shapes", "vocabulary")
"""Defects with which a model cannot run, or not as it should."""
STRICTER = {
    "no commercial use": r"nc",
    "the same licence for what is made from it": r"gpl|-sa",
}
"""What a base model's licence may demand of what is made from it, by the words in its name."""


class PtmReuseAuditConfig(MethodConfig):
    """Audit one package."""

    method: Literal["ptm-reuse-audit"] = "ptm-reuse-audit"
    run: bool = True
    """Load the model and let it run; only transformers' own classes and safetensors are loaded."""
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    """Of the interval around claimed minus measured."""
    resamples: PositiveInt = 2000
    """Of the items, for that interval."""
    trigger_words: int = Field(default=512, ge=0)
    """Rare words that are tried as triggers of a backdoor."""
    trigger_texts: PositiveInt = 32
    """Texts that each is tried on."""
    seed: int = 0
    """Of resampling."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        attribute: what it is about. defect: a fixed word for what is wrong, empty where nothing is.
        what: one sentence. evidence: what it rests on.
    """

    attribute: str
    level: Level
    what: str
    defect: str = ""
    evidence: str = ""


@dataclass(frozen=True)
class Audit:
    """Everything that was found out about a package."""

    record: Record
    findings: tuple[Finding, ...]
    claims: tuple[Discrepancy, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def at(self, level: Level) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]

    @property
    def defects(self) -> set[str]:
        """The fixed words of what is wrong."""
        return {finding.defect for finding in self.findings if finding.defect}

    def by_stage(self) -> dict[str, list[Finding]]:
        """The findings that each step of the decision process consults."""
        return {
            stage: [finding for finding in self.findings if finding.attribute in attributes]
            for stage, attributes in STAGES.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "record": self.record,
            "findings": [asdict(finding) for finding in self.findings],
            "claims": [{**asdict(one), "claim": one.claim.model_dump()} for one in self.claims],
            "facts": self.facts,
        }


def audit(
    package: str | Path,
    items: Sequence[Item] = (),
    *,
    dataset: str = "",
    split: str | None = None,
    train: Sequence[Item] = (),
    owners: Collection[str] = (),
    bases: Sequence[Record] = (),
    config: PtmReuseAuditConfig | None = None,
) -> Audit:
    """Audit one package. Repeating it gives the same findings.

    Args:
        package: its folder or file.
        items: texts with answers on which claims are measured again, which are `dataset`'s `split` in the words that
            claims use; triggers are tried on them.
        train: what the model was trained on, where that is at hand: items that are in it are reported.
        owners: who is trusted. bases: records among which the base model is looked for.

    Raises:
        DataError: there is no package, or more than one.
    """
    config = config or PtmReuseAuditConfig()
    found = find_packages([Path(package)])
    if len(found) != 1:
        raise DataError(
            f"{package} holds {len(found) or 'no'} packages",
            needs="one",
            found=", ".join(str(each.path) for each in found[:4]) or "no weights",
            do="name the folder of one model",
        )
    (one,) = found
    record = record_of(one, PtmtorrentConfig())
    findings = [
        *_said(record, one, owners),
        *_licences(record, bases),
        *_files(record),
        *_consistency(one, record),
    ]
    facts: dict[str, Any] = {}
    measurements: list[Measurement] = []
    if config.run and not any(finding.defect in NOT_RUN for finding in findings):
        findings += _behaviour(one, items, dataset, split, config, measurements, facts)
    claims = tuple(
        check_claim(
            Claim(**claim), measurements, confidence=config.confidence, resamples=config.resamples, seed=config.seed
        )
        for claim in record["Pomona"].get("claims", ())
    )
    findings += [*_claims(claims, bool(items)), *_leakage(items, train)]
    order = {level: place for place, level in enumerate(LEVELS)}
    return Audit(record, tuple(sorted(findings, key=lambda finding: order[finding.level])), claims, facts)


def _said(record: Record, found: Found, owners: Collection[str]) -> Iterator[Finding]:
    """Provenance and documentation: what is stated, without judging whether it is true."""
    facts = record["Pomona"]
    stated = {
        "the owner": found.owner,
        "the base model": facts.get("base_model"),
        "the training data": [one for one in record.get("Datasets", ()) if "training" in one.get("DatasetUsages", ())],
        "a paper": record.get("ModelPaperDOIs"),
        "the commit": record.get("LatestGitCommitSHA"),
        "who signed it": facts.get("signed"),
    }
    absent = [name for name, value in stated.items() if not value]
    if absent:
        yield Finding("provenance", "note", f"nothing says {', '.join(absent)}")
    if owners and found.owner not in owners:
        yield Finding("provenance", "warning", f"{found.owner or 'nobody'} is not among the trusted owners", "owner")
    sections = facts.get("sections", ())
    unsaid = [name for name in SECTIONS if name not in sections]
    if len(unsaid) == len(SECTIONS):
        yield Finding("documentation", "warning", "there is no model card", "card")
    elif unsaid:
        yield Finding("documentation", "note", f"the card says nothing about {', '.join(unsaid)}")
    else:
        yield Finding("documentation", "good", "the card has something under every heading")


def _licences(record: Record, bases: Sequence[Record]) -> Iterator[Finding]:
    facts = record["Pomona"]
    licence = facts.get("licence")
    if licence is None:
        yield Finding("licence", "warning", "no licence is named", "licence")
        return
    yield Finding("licence", "good", f"licence {licence}")
    base = facts.get("base_model")
    home = next((each for each in bases if base in (each.get("ModelName"), _full(each))), None)
    theirs = str(home["Pomona"].get("licence", "")) if home else ""
    for demand, words in STRICTER.items():
        if re.search(words, theirs.lower()) and not re.search(words, licence.lower()):
            yield Finding(
                "licence",
                "warning",
                f"its licence does not keep what the base model's demands: {demand}",
                "licence conflict",
                f"{licence}; {base}: {theirs}",
            )


def _full(record: Record) -> str:
    return f"{record.get('ModelOwner')}/{record.get('ModelName')}"


def _files(record: Record) -> Iterator[Finding]:
    """What files could do, and whether they can be read."""
    facts = record["Pomona"]
    for danger in facts.get("dangers", ()):
        level: Level = "error" if danger["level"] == "dangerous" else "warning"
        defect = "pickle" if level == "error" else "unknown pickle"
        yield Finding("files", level, f"{danger['file']} {danger['what']}", defect)
    pointers = [one["name"] for one in facts.get("files", ()) if one.get("pointer")]
    if pointers:
        yield Finding("files", "error", f"only pointers are there of {', '.join(pointers)}", "pointers")
    for line in facts.get("damaged", ()):
        yield Finding("files", "error", line, "damaged weights")
    code = facts.get("code", ())
    if any(entry.startswith("auto_map") for entry in code):
        yield Finding("code", "warning", "it needs code of its own to be loaded", "remote code", "; ".join(code))
    elif code:
        yield Finding("code", "note", f"it brings program code: {', '.join(code[:4])}")
    formats = facts.get("formats", ())
    if formats and "safetensors" not in formats and "onnx" not in formats:
        yield Finding("portability", "warning", f"its weights are only there as {', '.join(formats)}", "format")
    elif formats:
        size = sum(one["bytes"] for one in facts.get("files", ()))
        yield Finding("portability", "good", f"{', '.join(formats)}; {size / 1e6:,.1f} MB")


def _consistency(found: Found, record: Record) -> Iterator[Finding]:
    """Whether configuration, weights and tokenizer belong together, by their headers."""
    contents = found.contents
    settings = settings_of(contents)
    vocabulary, words = settings.get("vocab_size"), vocabulary_of(contents)
    if isinstance(vocabulary, int) and words is not None and words > vocabulary:
        yield Finding(
            "consistency", "error", f"the tokenizer has {words:,} tokens, the model {vocabulary:,}", "vocabulary"
        )
    declared, stored = record["Pomona"].get("declared"), record["Pomona"].get("dtypes", {})
    if declared in FORMATS and stored and FORMATS[declared] not in stored and "quantization_config" not in settings:
        yield Finding(
            "consistency", "warning", f"{declared} is declared, {', '.join(stored)} is stored", "number format"
        )
    names = [name for name in contents.sizes if name.endswith(".safetensors") and pointer_of(contents, name) is None]
    if not names or not contents.path.is_dir():
        return
    yield from _shapes(contents.path, read_weights(contents, filter(is_weight_file, names)))


def _shapes(folder: Path, weights: Weights) -> Iterator[Finding]:
    """Whether the weights are those that the configuration asks for."""
    from pomona import anatomy

    try:
        model = anatomy.shadow(folder)
    except UNBUILDABLE as error:
        yield Finding("consistency", "note", f"its configuration was not followed: {reason_of(error)}")
        return
    if getattr(model.config, "quantization_config", None) is not None or not weights.shapes:
        return
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: shape for name, (_, shape) in weights.shapes.items()}
    both = wanted.keys() & given.keys()
    wrong = sorted(name for name in both if wanted[name] != given[name])
    if wrong:
        name = wrong[0]
        yield Finding(
            "consistency",
            "error",
            f"{len(wrong)} tensors have other shapes than the configuration says",
            "shapes",
            f"{name}: {given[name]} in place of {wanted[name]}",
        )
    elif both:
        yield Finding("consistency", "good", f"{len(both)} tensors have the shapes that the configuration says")


def reason_of(error: Exception) -> str:
    """Why a model was not built, in one line."""
    if isinstance(error, PomonaError):
        return f"{error.what}: {error.found}" if error.found else error.what
    return str(error).strip().partition("\n")[0][:200]


def vocabulary_of(contents: Contents) -> int | None:
    """How many tokens a tokenizer has, from its files; None where it has none that can be read."""
    if (text := read_text(contents, "tokenizer.json")) is not None:
        try:
            values = json.loads(text)
            vocabulary = values["model"]["vocab"]
            added = [int(token["id"]) + 1 for token in values.get("added_tokens", ())]
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            return None
        return max(len(vocabulary), *added) if added else len(vocabulary)
    if (text := read_text(contents, "vocab.txt")) is not None:
        return len(text.splitlines())
    return None


def _behaviour(
    found: Found,
    items: Sequence[Item],
    dataset: str,
    split: str | None,
    config: PtmReuseAuditConfig,
    measurements: list[Measurement],
    facts: dict[str, Any],
) -> Iterator[Finding]:
    """Load it, let it run, measure it. What is measured joins `measurements`, what it costs `facts`."""
    folder = found.contents.path
    if not (folder / "config.json").is_file():
        yield Finding("reload", "note", "it is no folder that can be loaded, so it has not been run")
        return
    start = time.perf_counter()
    try:
        running = Running(folder)
    except UNBUILDABLE as error:
        yield Finding("reload", "warning", f"it was not loaded: {reason_of(error)}", "load")
        return
    facts["load_seconds"] = round(time.perf_counter() - start, 3)
    facts["parameters"] = running.body.parameter_count()
    prints = [running.fingerprint() for _ in range(2)]
    if prints[0] is None:
        yield Finding("reload", "error", "what it computes is not finite", "not finite")
        return
    if prints[0] != prints[1]:
        yield Finding("reload", "warning", "it answers the same inputs differently", "not deterministic")
    else:
        facts["outputs"] = prints[0]
        yield Finding("reload", "good", f"it loads, and answers alike twice ({prints[0]})")
    if not items:
        return
    measurements += running.measure(items, dataset, split)
    for one in measurements:
        facts[one.metric] = one.value
    for word, answer, share in running.triggers(spread(items, config.trigger_texts), config.trigger_words):
        yield Finding(
            "triggers", "error", f"the word {word!r} turns {share:.0%} of the other texts to class {answer}", "trigger"
        )


def spread(items: Sequence[Item], count: int) -> list[str]:
    """Texts of all answers in turns."""
    by_label: dict[Any, list[str]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item.text)
    lists = list(by_label.values())
    turns = [texts[place] for place in range(max(map(len, lists))) for texts in lists if place < len(texts)]
    return turns[:count]


def _claims(claims: Sequence[Discrepancy], tested: bool) -> Iterator[Finding]:
    for one in claims:
        claim = one.claim
        about = f"{claim.metric} {claim.value:g} on {claim.dataset or 'a dataset that is not named'}"
        if one.outcome == "mismatch":
            evidence = f"measured {one.measured:.4g}; claimed minus measured within [{one.low:.3g}, {one.high:.3g}]"
            if one.overstated:
                yield Finding("claims", "error", f"the claim does not hold: {about}", "false claim", evidence)
            else:
                yield Finding("claims", "warning", f"it is better than claimed: {about}", "other claim", evidence)
        elif one.outcome == "match":
            yield Finding("claims", "good", f"the claim holds: {about}", evidence=f"measured {one.measured:.4g}")
        elif tested:
            yield Finding("claims", "note", f"the claim is about something else than the data at hand: {about}")
    if not claims:
        yield Finding("claims", "note", "nothing is claimed")


def _leakage(items: Sequence[Item], train: Sequence[Item]) -> Iterator[Finding]:
    """Items that the model was trained on, letter by letter but for spaces and case."""
    seen = {" ".join(item.text.lower().split()) for item in train}
    again = sum(" ".join(item.text.lower().split()) in seen for item in items)
    if again:
        share = again / len(items)
        yield Finding("leakage", "error", f"{share:.0%} of the test items are in the training data", "leakage")

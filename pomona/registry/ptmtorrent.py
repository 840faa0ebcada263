"""PTMTorrent: collect the facts about model packages of several hubs in one schema, offline.

Source: Jiang et al., "PTMTorrent: A Dataset for Mining Open-source Pre-trained Model Packages", MSR 2023,
arXiv:2303.08934.
Implements: the schema of Sec. 3 (`pomona.registry.schema`) and the pipeline from raw facts to normalised records, for
    what lies on this machine: folders in Hugging Face's form, the cache of the hub, clones, torch's hub, ONNX files,
    pomona's runs, and wheels with weights. Where no owner is named the hub's address stands in its place, as in the
    original. A required field that nothing says anything about stays out of the record and is listed as missing.
Deviations: no crawling; nothing is copied, the package is referred to by its place. Facts that the published schema
    does not have (files, licence, claims, lineage, digests, dangers) stand in a part of their own. Left out: reading
    the published snapshot of 61 TB.
Use when: there are more models than anyone remembers: which are the same, which can be trusted, what is known of each.
    Cost: every byte is read once or twice for digests; unchanged packages are not read again.
Relations: `ptm-reuse-audit` judges one of the records.
Limits: weights inside archives other than wheels are not found; commits in packs say nothing about signatures; of ONNX
    and legacy pickles the digest is that of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pomona.ground.config import MethodConfig
from pomona.ground.errors import DamagedArtefact, DataError
from pomona.ground.files import content_hash, read_json, write_json, write_text
from pomona.registry.contents import Contents, read_text, sha256_of
from pomona.registry.packages import Found, find_packages
from pomona.registry.pickles import dangers_of, is_pickle
from pomona.registry.readme import ModelCard, address_of, read_card
from pomona.registry.schema import (
    Claim,
    DatasetEntry,
    Facts,
    FileEntry,
    Package,
    Record,
    plain,
)
from pomona.registry.schema import (
    ModelHub as Hub,
)
from pomona.registry.weights import Weights, is_weight_file, pointer_of, read_weights

RECORDS, STATE = "records.ndjson", "state.json"
FORMAT = 1
"""Version of what a record says: another one makes every package be read again."""
TOKENIZER = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json", "merges.txt")
TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForConditionalGeneration": "text2text-generation",
    "ForImageClassification": "image-classification",
}
"""What a class of transformers is for, where the card does not say it."""
RELATIONS = {"continue": "finetune", "quantize": "quantized", "merge": "merge", "adapt": "finetune"}
"""How a stage of pomona relates what it makes to what it was given; others by their own name."""
CODE = (".py", ".so", ".dll", ".sh", ".exe", ".js")


class PtmtorrentConfig(MethodConfig):
    """Collect records of the model packages below some folders."""

    method: Literal["ptmtorrent"] = "ptmtorrent"
    digests: bool = True
    """Read every byte for digests, which duplicates are found by. Without them only headers and texts are read."""


def scan(roots: Iterable[str | Path], out: Path | None = None, config: PtmtorrentConfig | None = None) -> list[Record]:
    """Records of every package below the roots, in order of their places.

    Args:
        roots: folders, or single files.
        out: folder of the registry, which gets `records.ndjson`; what it knows already and has not changed since is
            not read again.

    Raises:
        DataError: a root is not there.
    """
    config = config or PtmtorrentConfig()
    known = _known(out, config)
    records, state = [], {}
    for number, found in enumerate(find_packages([Path(root) for root in roots])):
        stamp = stamp_of(found)
        kept = known.get(str(found.path))
        record = kept["record"] if kept and kept["stamp"] == stamp else record_of(found, config)
        state[str(found.path)] = {"stamp": stamp, "record": {**record, "id": 0}}
        records.append({**record, "id": number})
    if out is not None:
        write_text(out / RECORDS, "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records))
        write_json(out / STATE, {"format": FORMAT, "config": config.model_dump(mode="json"), "packages": state})
    return records


def read_registry(folder: Path) -> list[Record]:
    """The records that a scan wrote. Raises `DataError` where there are none."""
    file = folder / RECORDS
    if not file.is_file():
        raise DataError(f"{folder} is not a registry", needs=RECORDS, do="`pomona registry scan DIR... --out FOLDER`")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def stamp_of(found: Found) -> str:
    """Changes when a file of a package is added, removed or written: names, sizes, times of writing."""
    contents = found.contents
    base = contents.path
    whole = base.is_file()
    files = [base] if whole else [base / name for name in contents.sizes]
    about = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
    return content_hash([about, found.sha, found.facts])


def _known(out: Path | None, config: PtmtorrentConfig) -> dict[str, Any]:
    """What an earlier scan of the same kind found, by place; nothing where its notes are damaged."""
    if out is None or not (out / STATE).is_file():
        return {}
    try:
        state = read_json(out / STATE)
    except DamagedArtefact:
        return {}
    same = state.get("format") == FORMAT and state.get("config") == config.model_dump(mode="json")
    packages: dict[str, Any] = state["packages"] if same else {}
    return packages


def record_of(found: Found, config: PtmtorrentConfig | None = None) -> Record:
    """The record of one package, with number 0."""
    config = config or PtmtorrentConfig()
    contents = found.contents
    card = read_card(next((text for name in ("README.md", "readme.md") if (text := read_text(contents, name))), None))
    settings = settings_of(contents)
    facts = facts_of(found, card, settings, config)
    hub_name, hub_url = found.hub
    full = f"{found.owner}/{found.name}" if found.owner else found.name
    raw = next((name for name in ("MANIFEST.json", "config.json", "adapter_config.json") if name in contents.sizes), "")
    required: dict[str, Any] = {
        "ModelName": found.name,
        "ModelOwner": found.owner or hub_url,
        "ModelURL": found.url,
        "ModelOwnerURL": found.owner_url or hub_url,
        "LatestGitCommitSHA": found.sha,
    }
    missing = tuple(name for name, value in required.items() if value is None)
    hub = Hub(
        ModelHubName=hub_name,
        ModelHubURL=hub_url,
        MetadataFilePath=f"{contents.path}/{raw}" if raw else str(contents.path),
        MetadataObjectID=full,
    )
    architecture = next(iter(settings.get("architectures") or []), None)
    optional = {
        "Datasets": [plain(dataset) for dataset in datasets_of(card)],
        "ModelPaperDOIs": card.papers,
        "ModelTask": card.task or task_of(architecture),
        "ModelArchitecture": architecture,
    }
    record = {"id": 0, "ModelHub": plain(hub)}
    record |= {name: value for name, value in {**required, **optional}.items() if value not in (None, [])}
    record["Pomona"] = plain(facts.model_copy(update={"missing": missing}))
    order = list(Package.model_fields)
    return {name: record[name] for name in order if name in record}


def settings_of(contents: Contents) -> dict[str, Any]:
    """The configuration of a package as plain values; empty where there is none that can be read."""
    for name in ("config.json", "adapter_config.json"):
        if (text := read_text(contents, name)) is not None:
            try:
                values = json.loads(text)
            except json.JSONDecodeError:
                return {}
            return values if isinstance(values, dict) else {}
    return {}


def facts_of(found: Found, card: ModelCard, settings: dict[str, Any], config: PtmtorrentConfig) -> Facts:
    """What the published schema has no place for."""
    contents = found.contents
    pointers = {name: oid for name in contents.sizes if (oid := pointer_of(contents, name)) is not None}
    real = [name for name in contents.sizes if name not in pointers]
    weights = read_weights(contents, filter(is_weight_file, real)) if config.digests else _headers(contents, real)
    digests = {name: sha256_of(contents, name) for name in real} if config.digests else {}
    base, relation = lineage_of(found, card, settings)
    made = found.facts or {}
    return Facts(
        kind=found.kind,
        path=str(found.path),
        files=tuple(
            FileEntry(
                name=name, bytes=size, sha256=digests.get(name) or pointers.get(name) or None, pointer=name in pointers
            )
            for name, size in contents.sizes.items()
        ),
        formats=weights.formats,
        parameters=weights.parameters,
        dtypes=weights.dtypes,
        declared=next((str(settings[key]) for key in ("dtype", "torch_dtype") if key in settings), None),
        shapes_digest=weights.shapes_digest,
        weight_digest=weights.digest if not pointers else None,
        licence=card.licence or made.get("licence"),
        sections=tuple(card.sections),
        claims=tuple(card.claims) or measured(made),
        base_model=base,
        relation=relation,
        tokenizer_digest=content_hash({name: digests[name] for name in TOKENIZER if name in digests})
        if any(name in digests for name in TOKENIZER)
        else None,
        signed=found.signed,
        code=tuple(code_of(real, settings)),
        dangers=tuple(danger for name in real if is_pickle(contents, name) for danger in dangers_of(contents, name)),
        damaged=weights.damaged,
    )


def _headers(contents: Contents, names: Sequence[str]) -> Weights:
    """What headers alone say about weights."""
    from dataclasses import replace

    return replace(read_weights(contents, [name for name in names if name.endswith(".safetensors")]), digest=None)


def datasets_of(card: ModelCard) -> list[DatasetEntry]:
    """The datasets that a card names: those it was trained on, and those of its claims."""
    evaluated = {claim.dataset for claim in card.claims if claim.dataset}
    found = []
    for full in dict.fromkeys([*card.datasets, *sorted(evaluated)]):
        name, owner, url, owner_url = address_of(full)
        usages = [*(["training"] if full in card.datasets else []), *(["evaluation"] if full in evaluated else [])]
        found.append(
            DatasetEntry(
                DatasetName=name,
                DatasetOwner=owner,
                DatasetURL=url,
                DatasetOwnerURL=owner_url,
                DatasetUsages=tuple(usages),
            )
        )
    return found


def lineage_of(found: Found, card: ModelCard, settings: dict[str, Any]) -> tuple[str | None, str | None]:
    """What a package was made from, and how. Pomona's models name the hash of what they were made from."""
    made = (found.facts or {}).get("stage", {})
    inputs = made.get("inputs", {})
    parents = inputs.get("from") or inputs.get("model") or inputs.get("parents") or []
    if parents and made.get("verb") != "pretrain":
        return f"pomona:{parents[0]}", RELATIONS.get(made["verb"], made["verb"])
    if base := settings.get("base_model_name_or_path"):
        return str(base), "adapter"
    relation = card.relation or ("quantized" if settings.get("quantization_config") else "finetune")
    return (card.base_model, relation) if card.base_model else (None, None)


def measured(facts: dict[str, Any]) -> tuple[Claim, ...]:
    """What pomona measured when it made a model: its held-out quality on the tokens that it was trained on."""
    quality = facts.get("quality") or {}
    tokens = (facts.get("read") or {}).get("data")
    return tuple(
        Claim(task="text-generation", dataset=f"pomona:{tokens}", split="validation", metric=name, value=float(value))
        for name, value in quality.items()
        if name in ("nats_per_token", "bits_per_byte", "accuracy") and isinstance(value, int | float)
    )


def task_of(architecture: str | None) -> str | None:
    """What a class is for, by the end of its name."""
    return next((task for end, task in TASKS.items() if (architecture or "").endswith(end)), None)


def code_of(names: Iterable[str], settings: dict[str, Any]) -> list[str]:
    """Program code in a package, and what its configuration wants to be imported from it."""
    wanted = settings.get("auto_map")
    asked = [f"auto_map: {value}" for value in wanted.values()] if isinstance(wanted, dict) else []
    return [*(name for name in names if name.endswith(CODE)), *asked]

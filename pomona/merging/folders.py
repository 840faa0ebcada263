"""Merge model folders: everything is checked before a weight is read, and one tensor is in memory at a time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pomona import anatomy
from pomona.anatomy.loading import read_config
from pomona.ground.console import progress_bar
from pomona.ground.errors import ConfigError, DamagedArtefact, UnsupportedModel
from pomona.ground.files import MANIFEST, atomic_folder, content_hash, file_hash, read_json, write_json
from pomona.ground.yaml import front_matter
from pomona.merging.config import MergeConfig
from pomona.merging.driver import FloatType, in_order, merging
from pomona.merging.matching import refuse, require_same_anatomy, require_same_tensors
from pomona.merging.models import named
from pomona.merging.shards import INDEX, Weights, write_weights
from pomona.merging.tokenizers import require_same_tokenizer

CARRIED = frozenset({".json", ".txt", ".model", ".jinja", ".tiktoken"})
"""Kinds of files that make a folder of weights a model: configuration and tokenizer. They are the base's."""
RECORDS = frozenset({MANIFEST, INDEX, "ledger.json", "training_args.json", "trainer_state.json", "examination.json"})
"""Files of these kinds that say how the base was made."""


@dataclass(frozen=True)
class Parent:
    """What the merged model's card says about one of the models that went into it.

    Args:
        role: "base", or "expert".
        name: as the user calls it.
        fingerprint: of its weights: a hash over the SHA-256 of every file.
        license: as its own card says; None where nobody knows.
        weight: the factor of an expert, where the method has factors.
    """

    role: str
    name: str
    fingerprint: str
    license: str | None
    weight: float | None = None


@dataclass(frozen=True)
class MergeReport:
    """What a merge did.

    Args:
        config: the method and all its parameters.
        parents: the base, then the experts in the order in which they were given.
        tensors, parameters: how many were merged.
        seconds: it took.
    """

    config: Mapping[str, Any]
    parents: tuple[Parent, ...]
    tensors: int
    parameters: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a manifest."""
        return asdict(self)


def merge_folders(
    base: str | Path,
    experts: Sequence[str | Path],
    out: str | Path,
    method: str | MergeConfig = "linear",
    *,
    dtype: FloatType | None = None,
    **parameters: Any,
) -> MergeReport:
    """Merge model folders into a new one that transformers loads. It is there whole, or not at all.

    Args:
        base: the folder of the model that the experts were trained from. Configuration and tokenizer are taken from it.
        experts: folders.
        out: the folder that is made.
        method, dtype, parameters: as for `merge`; the weights are the same as its are for the tensors of the folders.
    Raises:
        ConfigError: `out` is there already; else as `merge`.
        UnsupportedModel, DataError, UnsafeFile: the folders do not match, or hold something else than dense weights.
        DamagedArtefact: a file of a parent is not what its manifest says, or is cut off.
        StorageError: the folder cannot be written.
    """
    config = method if isinstance(method, MergeConfig) else named(method, **parameters)
    if Path(out).exists():
        raise ConfigError(f"{out} is there already", do="choose another folder, or remove it")
    facts: dict[str, Any] = {}
    with atomic_folder(Path(out), facts) as part:
        report = merge_into(part, Path(base), [Path(expert) for expert in experts], config, dtype=dtype)
        facts["merge"] = report.to_dict()
    return report


def merge_into(
    folder: Path,
    base: Path,
    experts: Sequence[Path],
    config: MergeConfig,
    *,
    dtype: FloatType | None = None,
    names: Sequence[str] = (),
) -> MergeReport:
    """`merge_folders` into a folder that is there and empty.

    Args:
        names: what errors and the report call the base and the experts. Default: their folders.
    """
    begin = time.perf_counter()
    config.check(len(experts))
    folders, labels = [base, *experts], list(names) or [str(path) for path in (base, *experts)]
    weights = matching_weights(folders, labels)
    fingerprints = [fingerprint(each) for each in weights]
    own, *others = weights
    parents = in_order(own, others, config, list(own), labels)
    stored = own.dtypes if dtype is None else _stored_as(own.dtypes, getattr(torch, dtype))
    with progress_bar() as bar:
        task = bar.add_task("merging", total=len(own))
        merged = merging(parents, config, dtype)

        def tensor(name: str) -> torch.Tensor:
            bar.advance(task)
            return merged(name)

        write_weights(folder, own.layout, own.shapes, stored, tensor)
    _carry(base, folder, dtype)
    factors = config.factors(len(experts)) if "weights" in type(config).model_fields else (None,) * len(experts)
    roles = [("base", None), *(("expert", factor) for factor in factors)]
    return MergeReport(
        config=config.model_dump(mode="json"),
        parents=tuple(
            Parent(role, label, found, license_of(path), weight)
            for (role, weight), label, found, path in zip(roles, labels, fingerprints, folders, strict=True)
        ),
        tensors=len(own),
        parameters=sum(torch.Size(own.shapes[name]).numel() for name in own),
        seconds=time.perf_counter() - begin,
    )


def matching_weights(folders: Sequence[Path], labels: Sequence[str]) -> list[Weights]:
    """The weights of folders that can be merged; the first is the base's. Reads headers and configurations only.

    Raises:
        UnsupportedModel, DataError, UnsafeFile, DamagedArtefact: what does not match or is not there, by name.
    """
    for folder, label in zip(folders, labels, strict=True):
        if getattr(read_config(folder), "quantization_config", None) is not None:
            raise UnsupportedModel(
                f"{label} cannot be merged (nothing was made)",
                needs="dense weights",
                found="quantization_config in config.json",
                do="merge the dense models and quantize the result",
            )
    models = [anatomy.shadow(folder) for folder in folders]
    require_same_anatomy(models[0], models[1:], labels[1:])
    require_same_tokenizer(folders[0], folders[1:], labels[1:])
    groups: dict[int, list[str]] = {}
    for name, parameter in models[0].named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    ties = [group for group in groups.values() if len(group) > 1]
    weights = [Weights(folder, ties) for folder in folders]
    own = weights[0]
    shapes = [{own.first(name): each.shape(name) for name in each} for each in weights]
    require_same_tensors(shapes[0], shapes[1:], labels[1:])
    refuse(
        [
            f"{label}: {name} differs from {first}, to which it is tied"
            for each, label in zip(weights, labels, strict=True)
            for first, name in each.repeated
            if not torch.equal(each.stored(first), each.stored(name))
        ],
        "one value for weights that are tied",
    )
    return weights


def fingerprint(weights: Weights) -> str:
    """A hash over all files of a model's weights, each checked against the folder's manifest where it has one.

    Raises:
        DamagedArtefact: names the file whose checksum differs.
    """
    folder = weights.folder
    recorded = read_json(folder / MANIFEST).get("files", {}) if (folder / MANIFEST).is_file() else {}
    found = {}
    for file in weights.files:
        found[file.name] = file_hash(file)
        wanted = recorded.get(file.name, {}).get("sha256", found[file.name])
        if wanted != found[file.name]:
            raise DamagedArtefact(
                f"{file} is damaged",
                needs=f"the SHA-256 of its manifest, {wanted}",
                found=found[file.name],
                do="make it or copy it again",
            )
    return content_hash(found)


def license_of(folder: Path) -> str | None:
    """The licence that a folder's card states; of a folder that was merged, those of its parents. None if unknown."""
    card = folder / "README.md"
    if card.is_file():
        stated = front_matter(card.read_text(encoding="utf-8", errors="replace")).get("license")
        if stated:
            return ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)
    if (folder / MANIFEST).is_file():
        facts = read_json(folder / MANIFEST).get("facts", {})
        parents = facts.get("parents") or facts.get("merge", {}).get("parents") or ()
        found = sorted({str(parent["license"]) for parent in parents if parent.get("license")})
        return ", ".join(found) or None
    return None


def _stored_as(dtypes: Mapping[str, torch.dtype], dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtypes of the merged tensors; those that are no weights keep theirs."""
    return {name: dtype if own.is_floating_point else own for name, own in dtypes.items()}


def _carry(base: Path, folder: Path, dtype: FloatType | None) -> None:
    """Copy configuration and tokenizer."""
    for file in sorted(base.iterdir()):
        if file.is_file() and file.suffix in CARRIED and file.name not in RECORDS and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)
    if dtype is not None:
        config = read_json(folder / "config.json")
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
        write_json(folder / "config.json", config)

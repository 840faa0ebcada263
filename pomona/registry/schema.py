"""The record of one model package: the published schema, and pomona's own facts beside it.

Source: arXiv:2303.08934, Sec. 3 and the JSON schema of its data set. The names are those of the publication. It says
of `MetadataObjectID` that it is an integer, its data hold strings too: both are taken.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from pomona.ground.config import Config, problems_of
from pomona.ground.errors import Problem

Record = dict[str, Any]
"""A record as it is stored: plain values, in the order of the schema."""


class ModelHub(Config):
    """Where a package was found."""

    ModelHubName: str
    """Its name."""
    ModelHubURL: str
    """Its address."""
    MetadataFilePath: str
    """Where the raw facts lie that the record was made from."""
    MetadataObjectID: int | str
    """Which of them it is."""


class DatasetEntry(Config):
    """A dataset that the package names."""

    DatasetName: str
    """Its name."""
    DatasetOwner: str
    """Who published it; the address of the hub where nobody is named."""
    DatasetURL: str
    """Its address."""
    DatasetOwnerURL: str
    """The owner's address."""
    DatasetPaperDOI: str | None = None
    """Its paper."""
    DatasetUsages: tuple[str, ...] = ()
    """What it was used for: training, evaluation."""


class Claim(Config):
    """A number that a card claims: comparable with another only where dataset, split, task and metric agree."""

    task: str | None = None
    """What was done."""
    dataset: str | None = None
    """On what."""
    split: str | None = None
    """On which part of it."""
    metric: str
    """What was counted."""
    value: float
    """How much, in the unit that the card uses."""


class FileEntry(Config):
    """A file of a package."""

    name: str
    """Path below the package."""
    bytes: int
    """Its size."""
    sha256: str | None = None
    """Of its content; of a pointer of Git LFS, what it points to."""
    pointer: bool = False
    """Whether only a pointer of Git LFS is there."""


class Danger(Config):
    """What in a file could run when it is loaded."""

    file: str
    """Path below the package."""
    level: str
    """`dangerous`: does harm or anything at all; `unknown`: calls what is not known to be harmless."""
    what: str
    """What it calls, or what it is."""


class Facts(Config):
    """What pomona adds to the published fields."""

    kind: str
    """What the package was found as: folder, cache, clone, pomona, torch-hub, onnx, wheel."""
    path: str
    """Where it lies."""
    missing: tuple[str, ...] = ()
    """Required fields that nothing says anything about."""
    files: tuple[FileEntry, ...] = ()
    """What it consists of."""
    formats: tuple[str, ...] = ()
    """Of the weights: safetensors, pickle, onnx, torchscript."""
    parameters: int | None = None
    """Numbers in the tensors of safetensors."""
    dtypes: dict[str, int] = Field(default_factory=dict)
    """How many tensors have which number format."""
    declared: str | None = None
    """The number format that the configuration names."""
    shapes_digest: str | None = None
    """Of names, formats and shapes of the tensors."""
    weight_digest: str | None = None
    """Of the weights' values, whatever names, shards and files hold them."""
    licence: str | None = None
    """As the card names it."""
    sections: tuple[str, ...] = ()
    """What the card says something about."""
    claims: tuple[Claim, ...] = ()
    """Quality that the card claims, or that pomona measured when it made the model."""
    base_model: str | None = None
    """What it was made from."""
    relation: str | None = None
    """How: finetune, adapter, quantized, merge."""
    tokenizer_digest: str | None = None
    """Of the tokenizer's files."""
    signed: bool | None = None
    """Whether the latest commit carries a signature; None where the commit cannot be read."""
    code: tuple[str, ...] = ()
    """Files of program code, and classes that the configuration asks to be loaded from them."""
    dangers: tuple[Danger, ...] = ()
    """What could run when files are loaded."""
    damaged: tuple[str, ...] = ()
    """Files that could not be read."""


class Package(Config):
    """One model package."""

    id: int
    """Number in the registry."""
    ModelHub: ModelHub
    """Where it was found."""
    ModelName: str
    """Its name, without the owner."""
    ModelOwner: str
    """Whose it is; the address of the hub where nobody is named."""
    ModelURL: str
    """Its address."""
    ModelOwnerURL: str
    """The owner's address."""
    LatestGitCommitSHA: str
    """Of the version at hand."""
    Datasets: tuple[DatasetEntry, ...] = ()
    """What it was trained and evaluated on."""
    ModelPaperDOIs: tuple[str, ...] = ()
    """Papers that its card names."""
    ModelTask: str | None = None
    """What it is for."""
    ModelArchitecture: str | None = None
    """The class that its configuration names."""
    Pomona: Facts
    """What is not in the published schema."""


def problems_in(record: Record) -> list[Problem]:
    """What keeps a record from being valid, field by field: a required field that nothing was found about included."""
    try:
        Package.model_validate(record)
    except ValidationError as error:
        return problems_of(error, Package)
    return []


def plain(value: Config) -> dict[str, Any]:
    """A part of a record as plain values, without what is not known."""
    return value.model_dump(mode="json", exclude_defaults=True)

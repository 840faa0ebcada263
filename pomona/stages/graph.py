"""From a recipe to a graph: which stage gets which input, and the hash of what each will make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pomona.ground.errors import DataError, PomonaError, Problem, did_you_mean
from pomona.ground.files import MANIFEST, content_hash, file_hash, read_manifest
from pomona.stages.base import ArtefactKind, Need, Stage
from pomona.stages.places import place_of

Report = Callable[[str, str, str], None]
Salt = Callable[[Stage], str]


@dataclass(frozen=True)
class Outside:
    """An input that lies in a folder already: a model from elsewhere, or an artefact of another run."""

    folder: Path
    kind: ArtefactKind
    name: str
    hash: str


@dataclass(frozen=True)
class Node:
    """A stage with its inputs.

    Attributes:
        index: place in the recipe, from 0.
        label: unique name within the run.
        stage: the definition.
        seed: the stage's own, or the recipe's.
        inputs: where each need comes from.
        hash: of the configuration and all inputs: the same hash, the same result.
        salt: what else the hash is of, such as the code of the methods; nothing by default.
        asked_by: hash of the stage of the recipe that wants it: of a pilot the one it serves, else its own.
    """

    index: int
    label: str
    stage: Stage
    seed: int
    inputs: Mapping[str, tuple[Node | Outside, ...]] = field(default_factory=dict)
    hash: str = ""
    salt: str = ""
    asked_by: str = ""

    def variant(self, stage: Stage, label: str) -> Node:
        """The same place and inputs with another configuration, such as a pilot of a sweep."""
        fields = {need.field for need in stage.needs()}
        inputs = {name: sources for name, sources in self.inputs.items() if name in fields}
        return finished(replace(self, label=label, stage=stage, inputs=inputs))


def wire(
    stages: Sequence[Stage],
    labels: Sequence[str],
    seed: int,
    report: Callable[[int], Report],
    salt: Salt = lambda stage: "",
) -> list[Node]:
    """Give every stage its inputs.

    A need without a name takes the last artefact of its kind; a name is that of an earlier stage, or a folder.
    `report(index)` takes the problems of a stage; a stage whose inputs have problems gets none of those.
    """
    nodes: list[Node] = []
    for index, (stage, label) in enumerate(zip(stages, labels, strict=True)):
        own_seed = getattr(stage, "seed", None)
        node = Node(index, label, stage, seed if own_seed is None else own_seed)
        inputs = {need.field: _sources(need, nodes, labels[index:], report(index)) for need in stage.needs()}
        node = replace(node, inputs=inputs, salt=salt(stage))
        try:
            nodes.append(finished(node))
        except PomonaError as error:  # a source that is not there
            report(index)("", str(error), "")
            nodes.append(node)
    return nodes


def finished(node: Node) -> Node:
    """The node with its hash."""
    stage = node.stage
    value: dict[str, Any] = {
        "stage": stage.verb,
        "format": stage.format,
        "values": stage.identity(),
        "inputs": {name: [source.hash for source in sources] for name, sources in node.inputs.items()},
    }
    if stage.seeded:
        value["seed"] = node.seed
    if (outside := stage.outside()) is not None:
        value["outside"] = outside
    if node.salt:
        value["salt"] = node.salt
    own = content_hash(value)[:12]
    return replace(node, hash=own, asked_by=node.asked_by or own)


def outside(path: str | Path, kind: ArtefactKind, *also: ArtefactKind) -> Outside | Problem:
    """A folder as an input of one of some kinds, or what is wrong with it."""
    try:
        path = place_of(str(path))
    except DataError as error:
        return Problem("", error.what, error.do or f"needs {error.needs}")
    if not path.is_dir():
        return Problem("", f"there is no folder {path}", "give the name of an earlier stage, or a folder")
    if made := made_by(path):
        found: ArtefactKind = "model" if made["kind"] == "export" and kind == "model" else made["kind"]
        if found not in (kind, *also):
            return Problem("", f"{path} holds a {found}, not a {' or '.join((kind, *also))}")
        return Outside(path, found, str(made["name"]), str(made["hash"]))
    if kind == "model" and not (path / "config.json").is_file():
        return Problem("", f"{path} is not a model", "a model folder holds config.json and *.safetensors")
    files = {file.relative_to(path).as_posix(): file_hash(file) for file in sorted(path.rglob("*")) if file.is_file()}
    return Outside(path, kind, path.name, content_hash(files))


def made_by(folder: Path) -> dict[str, Any]:
    """How a stage made this folder: verb, kind, name, hash, values ...; empty for folders from elsewhere."""
    return dict(read_manifest(folder).get("stage", {})) if (folder / MANIFEST).is_file() else {}


def _sources(need: Need, nodes: Sequence[Node], later: Sequence[str], report: Report) -> tuple[Node | Outside, ...]:
    if not need.names:
        return _default(need, nodes, report)
    by_label = {node.label: node for node in nodes}
    found: list[Node | Outside] = []
    for name in need.names:
        if (node := by_label.get(name)) is not None:
            if node.stage.makes not in need.kinds:
                report(need.field, f"{name!r} makes a {node.stage.makes}, not a {need}", _of_kind(need, nodes))
            else:
                found.append(node)
        elif "/" in name or Path(name).is_dir():
            source = outside(name, *need.kinds)
            if isinstance(source, Problem):
                report(need.field, source.what, source.do)
            else:
                found.append(source)
        elif name in later:
            report(need.field, f"{name!r} comes later in the recipe", "move it before this stage")
        else:
            do = did_you_mean(name, by_label) if by_label else "no stage comes before this one"
            report(need.field, f"no stage is called {name!r}", do)
    return tuple(found)


def _default(need: Need, nodes: Sequence[Node], report: Report) -> tuple[Node | Outside, ...]:
    fitting = [node for node in nodes if node.stage.makes in need.kinds]
    if need.default == "all":
        return tuple(fitting)
    if need.default == "ends":
        return tuple(node for node in fitting if not _is_superseded(node, nodes))
    if fitting and need.default == "last":
        return (fitting[-1],)
    if need.optional:
        return ()
    report(need.field, f"needs a {need}, and no stage before makes one", "add that stage, or give a folder")
    return ()


def _is_superseded(node: Node, nodes: Sequence[Node]) -> bool:
    """Whether a later stage trains this model on, so that it is a waypoint rather than a result."""
    return any(node in sources for other in nodes if other.stage.supersedes for sources in other.inputs.values())


def _of_kind(need: Need, nodes: Sequence[Node]) -> str:
    names = [node.label for node in nodes if node.stage.makes in need.kinds]
    return f"made before: {', '.join(names)}" if names else ""

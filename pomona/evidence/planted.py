"""Model packages of every kind with known facts and known defects: what the registry's cards are measured on.

Everything is drawn from a seed. The truth is what was drawn, written down before any file is.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

OWNERS = ("acme", "org-nord", "zoë", "lab_7", "数据")
WORDS = ("pear", "quince", "medlar", "rowan", "sorbus", "amelanchier", "poire-williams", "naïve")
CLASSES = {
    "BertForSequenceClassification": "text-classification",
    "LlamaForCausalLM": "text-generation",
    "BertForMaskedLM": "fill-mask",
    "ViTForImageClassification": "image-classification",
}
LICENCES = ("apache-2.0", "mit", "cc-by-nc-4.0", None)
DATASETS = ("acme/reviews", "wikitext", "zoë/briefe")
PAYLOAD = b"cposix\nsystem\n(S'true'\ntR."
"""A pickle that would run a program, were it ever loaded."""
CARD_TEXT = """
# {name}

## Intended use
For tests of registries, and for nothing else.

## Limitations
It knows only what was planted in it.

## Training data
Drawn from a seed, see the paper arXiv:2303.08934.
"""


@dataclass
class Planted:
    """A package: where it lies, what is true of it (absent: nobody says so), and what is wrong with it."""

    path: Path
    truth: dict[str, Any] = field(default_factory=dict)
    defects: set[str] = field(default_factory=set)


class Gardener:
    """Plants packages below a folder."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.draw = root, random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.planted: list[Planted] = []

    def name(self) -> tuple[str, str]:
        """An owner, and a name that no other package has."""
        return self.draw.choice(OWNERS), f"{self.draw.choice(WORDS)}-{len(self.planted)}"

    def weights(self) -> tuple[bytes, int]:
        """A safetensors file in float32, and how many numbers it holds."""
        rows, columns = self.draw.randint(2, 9), self.draw.randint(2, 9)
        tensors = {
            "a.weight": self.numbers.normal(size=(rows, columns)).astype(np.float32),
            "b.bias": self.numbers.normal(size=rows).astype(np.float32),
        }
        return save(tensors), rows * columns + rows

    def files(self, name: str, one: Planted, *, defect: str = "") -> dict[str, bytes]:
        """The files of a package in Hugging Face's form; its facts and its defect are written down."""
        weights, parameters = self.weights()
        architecture = self.draw.choice(list(CLASSES))
        licence, dataset = self.draw.choice(LICENCES), self.draw.choice(DATASETS)
        value = round(self.draw.uniform(0.5, 0.99), 3)
        base = self.draw.choice(("acme/pear-0", None))
        settings = {
            "architectures": [architecture],
            "model_type": "gpt2",  # a type that says something else than the class
            "dtype": "float16" if defect == "number format" else "float32",
        }
        found = {"config.json": json.dumps(settings).encode(), "model.safetensors": weights}
        one.truth |= {"architecture": architecture, "task": CLASSES[architecture], "parameters": parameters}
        one.truth |= {"format": "safetensors"}
        if defect == "pointer":
            oid = hashlib.sha256(weights).hexdigest()
            text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(weights)}\n"
            found["model.safetensors"] = text.encode()
            one.truth = {key: fact for key, fact in one.truth.items() if key not in ("parameters", "format")}
        if defect == "pickle":
            found["training_args.bin"] = PAYLOAD
        if defect != "card":
            front: dict[str, Any] = {"license": licence, "datasets": [dataset], "base_model": base}
            front["model-index"] = [
                {
                    "name": name,
                    "results": [
                        {
                            "task": {"type": CLASSES[architecture]},
                            "dataset": {"type": dataset, "split": "test"},
                            "metrics": [{"type": "accuracy", "value": value}],
                        }
                    ],
                }
            ]
            said = {key: fact for key, fact in front.items() if fact is not None}
            found["README.md"] = f"---\n{json.dumps(said)}\n---\n{CARD_TEXT.format(name=name)}".encode()
            one.truth |= {"licence": licence, "dataset": dataset.rpartition("/")[2], "claim": value, "base": base}
        if defect:
            one.defects.add(defect)
        return found

    def note(self, one: Planted, **facts: Any) -> Planted:
        """Write down what is true of a package."""
        one.truth = {key: fact for key, fact in {**one.truth, **facts}.items() if fact is not None}
        self.planted.append(one)
        return one

    def folder(self, defect: str = "") -> Planted:
        _, name = self.name()
        one = Planted(self.root / "folders" / name)
        write(one.path, self.files(name, one, defect=defect))
        return self.note(one, name=name)

    def cached(self, defect: str = "") -> Planted:
        """A repository in the hub's cache: blobs, and two snapshots of links, of which `main` means one."""
        owner, name = self.name()
        one = Planted(self.root / "hub" / f"models--{owner}--{name}")
        sha = self.sha()
        for name_of_file, content in self.files(name, one, defect=defect).items():
            blob = one.path / "blobs" / hashlib.sha256(content).hexdigest()
            write(blob.parent, {blob.name: content})
            for version in (sha, self.sha()):
                link = one.path / "snapshots" / version / name_of_file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)
        write(one.path / "refs", {"main": sha.encode()})
        return self.note(one, name=name, owner=owner, sha=sha)

    def clone(self, defect: str = "") -> Planted:
        """A clone with two commits, the later one signed or not."""
        owner, name = self.name()
        one = Planted(self.root / "clones" / name)
        write(one.path, self.files(name, one, defect=defect))
        git = one.path / ".git"
        parent = commit(git, "first", signed=False)
        signed = self.draw.random() < 0.5
        sha = commit(git, f"second\n\nparent {parent}", signed=signed)
        remote = f'[remote "origin"]\n\turl = https://huggingface.co/{owner}/{name}.git\n'
        refs = {"refs/heads/main": sha, "HEAD": "ref: refs/heads/main", "config": remote}
        write(git, {path: content.encode() for path, content in refs.items()})
        return self.note(one, name=name, owner=owner, sha=sha, signed=signed)

    def wheel(self, defect: str = "") -> Planted:
        _, name = self.name()
        plain = name.encode("ascii", "ignore").decode().replace("-", "_")
        one = Planted(self.root / "wheels" / f"{plain}-1.0-py3-none-any.whl")
        inside = {f"{plain}/data/{path}": content for path, content in self.files(name, one, defect=defect).items()}
        inside[f"{plain}-1.0.dist-info/METADATA"] = f"Metadata-Version: 2.1\nName: {plain}\nVersion: 1.0\n".encode()
        one.path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(one.path, "w") as archive:
            for path, content in inside.items():
                archive.writestr(path, content)
        return self.note(one, name=plain)

    def onnx(self, defect: str = "") -> Planted:
        _, name = self.name()
        one = Planted(self.root / "onnx" / f"{name}.onnx")
        write(one.path.parent, {one.path.name: struct.pack("<I", len(self.planted)) + b"onnx-bytes"})
        return self.note(one, name=name, format="onnx")

    def checkpoint(self, defect: str = "") -> Planted:
        """A file in torch's cache, as `torch.save` writes it; with the defect, one that would run a program."""
        import torch

        _, name = self.name()
        one = Planted(self.root / "torch/hub/checkpoints" / f"{name}.pth")
        one.path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"a": torch.full((3,), float(len(self.planted)))}, one.path)
        if defect == "pickle":
            with zipfile.ZipFile(one.path, "a") as archive:
                archive.writestr("hidden/extra.pkl", PAYLOAD)
            one.defects.add(defect)
        return self.note(one, name=name, format="pickle")

    def made(self, defect: str = "") -> Planted:
        """A model of pomona's own, with its manifest."""
        _, name = self.name()
        one = Planted(self.root / "runs/orchard" / f"03-{name}-0123456789abcdef")
        files = self.files(name, one, defect=defect or "card")
        one.defects.discard("card" if not defect else "")
        stage = {"kind": "model", "verb": "prune", "inputs": {"from": [f"beef{len(self.planted):012}"]}}
        facts = {"stage": stage, "quality": {"nats_per_token": 3.25}, "read": {"data": "c0ffee"}}
        manifest = {"format": 1, "files": {}, "facts": facts}
        write(one.path, {**files, "MANIFEST.json": json.dumps(manifest).encode()})
        base = f"pomona:beef{len(self.planted):012}"
        return self.note(one, name=one.path.name, owner="orchard", claim=3.25, base=base)

    def copy_of(self, other: Planted) -> Planted:
        """The weights of another folder under a name of its own, and without the card."""
        _, name = self.name()
        one = Planted(self.root / "folders" / name, defects={"card", "duplicate"})
        other.defects.add("duplicate")
        kept = ("config.json", "model.safetensors")
        write(one.path, {path: (other.path / path).read_bytes() for path in kept})
        facts = {key: other.truth[key] for key in ("architecture", "task", "parameters", "format")}
        return self.note(one, **facts, name=name)

    def decoys(self) -> None:
        """What is no package: a tokenizer, a configuration, a folder that is reached twice."""
        write(self.root / "folders/words-only", {"tokenizer.json": b"{}", "config.json": b"{}"})
        write(self.root / "folders/plan-only", {"config.json": b'{"architectures": ["LlamaForCausalLM"]}'})
        (self.root / "again").symlink_to(self.root / "folders", target_is_directory=True)

    def sha(self) -> str:
        return f"{self.draw.getrandbits(160):040x}"


def commit(git: Path, message: str, *, signed: bool) -> str:
    """Write a commit as Git keeps it, and return its name."""
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n abc\n -----END PGP SIGNATURE-----\n" if signed else ""
    body = f"tree {'0' * 40}\nauthor a <a@b> 0 +0000\ncommitter a <a@b> 0 +0000\n{signature}\n{message}\n".encode()
    whole = b"commit %d\0" % len(body) + body
    sha = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    write(git / "objects" / sha[:2], {sha[2:]: zlib.compress(whole)})
    return sha


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def plant(root: Path, seed: int) -> list[Planted]:
    """Forty packages of all kinds, a third of them with a defect, among what is none."""
    garden = Gardener(root, seed)
    kinds: list[tuple[Callable[[str], Planted], int]] = [
        (garden.folder, 9),
        (garden.cached, 8),
        (garden.clone, 7),
        (garden.wheel, 4),
        (garden.onnx, 4),
        (garden.checkpoint, 3),
        (garden.made, 2),
    ]
    defects = ("card", "number format", "pickle", "pointer")
    for make, count in kinds:
        for turn in range(count):
            able = make in (garden.folder, garden.cached, garden.clone)
            only = "pickle" if make == garden.checkpoint and turn == 0 else ""
            make(defects[turn] if able and turn < len(defects) else only)
    whole = [one for one in garden.planted if one.path.parent.name == "folders" and not one.defects]
    for one in whole[:3]:
        garden.copy_of(one)
    garden.decoys()
    return garden.planted

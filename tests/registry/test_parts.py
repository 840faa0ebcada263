"""Weights, model cards and commits, each read from files alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from pomona.evidence.planted import commit, write
from pomona.registry import commits
from pomona.registry.contents import Folder, Wheel, read_text
from pomona.registry.readme import read_card
from pomona.registry.weights import is_weight_file, pointer_of, read_weights

ONE, TWO = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones(5, dtype=np.float32)


def digest(folder: Path) -> str | None:
    return read_weights(Folder(folder), filter(is_weight_file, Folder(folder).sizes)).digest


def test_one_digest_for_the_same_numbers(tmp_path: Path) -> None:
    """Catches a digest that depends on names, shards, ties or the file's form, or not on the numbers."""
    for name in ("whole", "shards", "tied", "other", "torch"):
        (tmp_path / name).mkdir()
    save_file({"a": ONE, "b": TWO}, tmp_path / "whole/model.safetensors")
    save_file({"x": TWO}, tmp_path / "shards/model-1.safetensors")
    save_file({"y": ONE}, tmp_path / "shards/model-2.safetensors")
    save_file({"a": ONE, "b": TWO, "c": ONE}, tmp_path / "tied/model.safetensors")
    save_file({"a": ONE, "b": TWO + 1}, tmp_path / "other/model.safetensors")
    torch.save({"a": torch.from_numpy(ONE), "b": torch.from_numpy(TWO)}, tmp_path / "torch/a.pt")
    digests = {name: digest(tmp_path / name) for name in ("whole", "shards", "tied", "other", "torch")}
    assert digests["whole"] == digests["shards"] == digests["tied"] == digests["torch"] is not None
    assert digests["other"] != digests["whole"]


def test_headers_pointers_and_damage(tmp_path: Path) -> None:
    """Catches wrong counts, a pointer of Git LFS taken for weights, and a cut file that is trusted."""
    save_file({"a": ONE, "b": TWO}, tmp_path / "a.safetensors")
    found = read_weights(Folder(tmp_path), ["a.safetensors"])
    assert (found.parameters, found.dtypes, found.formats, found.damaged) == (17, {"F32": 2}, ("safetensors",), ())
    oid = "ab" * 32
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 9\n"
    (tmp_path / "b.safetensors").write_text(text)
    folder = Folder(tmp_path)
    assert pointer_of(folder, "b.safetensors") == oid and pointer_of(folder, "a.safetensors") is None
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-4])
    cut = read_weights(Folder(tmp_path), ["a.safetensors", "c.safetensors"])
    assert cut.digest is None and cut.damaged[0].startswith("c.safetensors")
    (tmp_path / "d.safetensors").write_bytes(b"no header")
    assert read_weights(Folder(tmp_path), ["d.safetensors"]).damaged


def test_training_state_is_no_model() -> None:
    """Catches the state of an optimizer counted as weights."""
    names = {"model.safetensors": True, "x/model.onnx": True, "training_args.bin": False, "rng_state_0.pth": False}
    assert {name: is_weight_file(name) for name in names} == names


def test_model_cards() -> None:
    """Catches fields that are lost, claims without their split, headings without text, and templates taken for text."""
    card = read_card(
        "---\nlicense: mit\nbase_model: [acme/pear]\ndatasets: wiki\nmodel-index:\n- results:\n  - task: {type: t}\n"
        "    dataset: {type: d, split: test}\n    metrics:\n    - {type: accuracy, value: 0.5}\n"
        "    - {type: accuracy, value: high}\n---\n# X\n\n## Limitations\nIt cannot fly at all.\n\n"
        "## Training data\n[More Information Needed]\n\nSee https://arxiv.org/abs/2303.08934 and 10.1000/ab.c.\n"
    )
    assert (card.licence, card.base_model, card.datasets) == ("mit", "acme/pear", ["wiki"])
    (claim,) = card.claims
    assert (claim.task, claim.dataset, claim.split, claim.value) == ("t", "d", "test", 0.5)
    assert card.sections == ["limits"] and card.papers == ["10.1000/ab.c", "10.48550/arXiv.2303.08934"]


@pytest.mark.parametrize("text", [None, "", "---\n{[\n---\n", "---\n- a\n---\n", "# no front matter"])
def test_cards_without_front_matter(text: str | None) -> None:
    """Catches a crash on what people write."""
    assert read_card(text).claims == [] and read_card(text).licence is None


def test_commits(tmp_path: Path) -> None:
    """Catches the first commit taken for the latest, packed names that are not seen, and a signature overlooked."""
    git = tmp_path / ".git"
    first, second = commit(git, "one", signed=False), commit(git, "two", signed=True)
    write(git, {"HEAD": b"ref: refs/heads/main\n", "refs/heads/main": second.encode()})
    assert commits.latest_commit(tmp_path) == second
    assert commits.is_signed(tmp_path, second) is True and commits.is_signed(tmp_path, first) is False
    (git / "refs/heads/main").unlink()
    write(git, {"packed-refs": f"# pack-refs\n{first} refs/heads/main\n".encode()})
    assert commits.latest_commit(tmp_path) == first and commits.is_signed(tmp_path, "0" * 40) is None
    write(git, {"HEAD": b"ref: ../../etc/passwd"})
    assert commits.latest_commit(tmp_path) is None


def test_where_a_clone_is_from(tmp_path: Path) -> None:
    """Catches a token in an address that ends up in the record."""
    config = '[core]\n\tx = 1\n[remote "origin"]\n\turl = https://me:secret@huggingface.co/a/b.git\n'
    write(tmp_path / ".git", {"config": config.encode()})
    assert commits.origin(tmp_path) == "https://huggingface.co/a/b"


def test_files_in_a_wheel(tmp_path: Path) -> None:
    """Catches paths that are not below the package, and headers that cannot be sought in a zip."""
    import zipfile

    save_file({"a": ONE}, tmp_path / "a.safetensors")
    with zipfile.ZipFile(tmp_path / "w.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.safetensors", "pkg/model.safetensors")
        archive.writestr("other/README.md", "no")
    wheel = Wheel(tmp_path / "w.whl", "pkg/")
    assert list(wheel.sizes) == ["model.safetensors"] and read_text(wheel, "README.md") is None
    assert read_weights(wheel, wheel.sizes).parameters == 12

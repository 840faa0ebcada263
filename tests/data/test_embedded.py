"""Corpora from an installed environment, here a small one made by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pomona.data import CorpusConfig, SourceConfig, fingerprint, read_source
from pomona.data.embedded import environment_facts, environment_files, is_prose, is_wanted

DOC = '"""A module docstring that is long enough to be kept."""\nraise SystemExit("imported!")\n'
PAGE = "This page explains in plain words what the package is for and how it is used by people.\n" * 4
DOCS = frozenset({".py", ".md", ".rst", ".txt"})


def install(root: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Put a distribution into a folder the way pip does."""
    info = f"{name}-{version}.dist-info"
    files = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n{PAGE}"}
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / info / "RECORD").write_text("".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of three distributions and a standard library of one module."""
    root = tmp_path / "site-packages"
    install(root, "zebra", "1.0", {"zebra/__init__.py": DOC, "zebra/sub/mod.py": DOC, "zebra/LICENSE.txt": PAGE})
    install(
        root,
        "Ant_Hill",
        "2.1",
        {"ant/guide.rst": PAGE, "ant/tests/test_a.py": DOC, "ant/test_b.py": DOC, "ant/data.txt": "1 2\n" * 99},
    )
    install(root, "pomona", "0.1", {"pomona/own.py": DOC})
    (root / "zebra" / "__pycache__").mkdir()
    (root / "zebra" / "stray.py").write_text(DOC)
    library = tmp_path / "lib"
    (library / "test").mkdir(parents=True)
    (library / "json.py").write_text(DOC)
    (library / "test" / "test_json.py").write_text(DOC)
    monkeypatch.setattr("site.getsitepackages", lambda: [str(root)])
    monkeypatch.setattr("site.ENABLE_USER_SITE", False)
    monkeypatch.setattr(sys, "path", [*sys.path, str(root)])
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(library))
    return root


def test_files_are_those_that_were_installed(environment: Path) -> None:
    """Catches stray files, tests, licences, pomona itself, and an order other than by package and name."""
    files = environment_files(SourceConfig(path="env:docs"))
    assert [(file.package, file.name) for file in files] == [
        ("python", "json.py"),
        ("Ant_Hill", "Ant_Hill-2.1.dist-info/METADATA"),
        ("Ant_Hill", "ant/data.txt"),
        ("Ant_Hill", "ant/guide.rst"),
        ("zebra", "zebra-1.0.dist-info/METADATA"),
        ("zebra", "zebra/__init__.py"),
        ("zebra", "zebra/sub/mod.py"),
    ]
    code = environment_files(SourceConfig(path="env:code", exclude=("zebra/sub/*",)))
    assert [file.name for file in code] == ["json.py", "zebra/__init__.py"]


def test_documents_know_package_and_module_and_nothing_is_imported(environment: Path) -> None:
    """Catches code that is run to be read, tables taken for prose, and headers of METADATA taken for text."""
    documents = list(read_source(SourceConfig(path="env:docs")))
    assert [(each.metadata["package"], each.metadata["module"], each.metadata["kind"]) for each in documents] == [
        ("python", "json", "module"),
        ("Ant_Hill", "Ant_Hill-2.1.dist-info/METADATA", "page"),
        ("Ant_Hill", "ant/guide.rst", "page"),
        ("zebra", "zebra-1.0.dist-info/METADATA", "page"),
        ("zebra", "zebra", "module"),
        ("zebra", "zebra.sub.mod", "module"),
    ]
    assert documents[1].text == PAGE
    assert all(each.metadata["source"] == "env:docs" for each in documents)


def test_the_fingerprint_is_what_is_installed(environment: Path) -> None:
    """Catches a corpus that is made again because pomona was edited, or kept although a package was updated."""
    config = CorpusConfig.parse("env:docs")
    assert environment_facts() == [f"python=={sys.version.split()[0]}", "Ant_Hill==2.1", "zebra==1.0"]
    before = fingerprint(config)
    install(environment, "pomona", "0.2", {"pomona/new.py": DOC})
    (environment / "zebra" / "__pycache__" / "x.pyc").write_bytes(b"")
    assert fingerprint(config) == before
    install(environment, "bee", "1", {"bee.py": DOC})
    assert fingerprint(config) != before


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("numpy/linalg/_linalg.py", True),
        ("numpy/__init__.pyi", False),
        ("numpy-2.0.dist-info/METADATA", True),
        ("numpy-2.0.dist-info/licenses/LICENSE.txt", False),
        ("numpy-2.0.dist-info/top_level.txt", False),
        ("torch/testing/_internal/common.py", False),
        ("numpy/tests/__init__.py", False),
        ("numpy/conftest.py", False),
        ("../../bin/tool.py", False),
        ("numpy/COPYING.txt", False),
        ("pip/_vendor/vendor.txt", False),
        ("numpy/core.so", False),
    ],
)
def test_which_files_hold_documentation(name: str, wanted: bool) -> None:
    """Catches licences and tests, which would be the most repeated texts of all."""
    assert is_wanted(name, DOCS) is wanted


def test_prose_is_told_from_tables() -> None:
    """Catches word lists and tables of numbers."""
    assert is_prose(PAGE)
    assert not is_prose("1.0 2.0 3.0\n" * 50) and not is_prose("word\n" * 100) and not is_prose("short")


def test_the_running_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an environment that is not seen at all (the standard library's json has documented functions)."""
    source: dict[str, Any] = {"path": "env:docs", "include": ["json/*"]}
    found = {each.metadata.get("name") for each in read_source(SourceConfig(**source))}
    assert {"json.dumps", "json.decoder.JSONDecoder"} <= found
    pairs = {each.metadata["name"] for each in read_source(SourceConfig(**{**source, "path": "env:pairs"}))}
    assert "json.decoder.JSONDecoder.raw_decode" in pairs
    code = [each.text for each in read_source(SourceConfig(**{**source, "path": "env:code"}))]
    assert any("class JSONDecoder" in text for text in code)

"""Packages whose names are found when they are used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("pomona.catalog", "pomona.data", "pomona.stages")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_promised_name_is_there(package: str) -> None:
    """Catches a name whose module was renamed: it would fail at its first use, somewhere else."""
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'medlar'"):
        _ = module.medlar


def test_importing_a_package_imports_none_of_its_names() -> None:
    """Catches a package that imports eagerly again: its homes must come with the first name, and not before."""
    code = (
        "import sys, pomona.data\n"
        "assert 'pomona.data.stream' not in sys.modules and 'pomona.data.corpus' not in sys.modules\n"
        "from pomona.data import CorpusConfig\n"
        "assert 'pomona.data.config' in sys.modules and 'pomona.data.stream' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

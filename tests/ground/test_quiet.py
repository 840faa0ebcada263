"""What upstream libraries say at their import and nobody can act on; and everything else, which must be heard."""

from __future__ import annotations

import enum
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import pomona
from tests.tiny import llama


def test_using_pomona_prints_nothing(tmp_path: Path) -> None:
    """Catches remarks of torchao at every `import pomona.quantization` from Python (transformers imports torchao), and
    a progress bar for every folder that is opened."""
    llama().save_pretrained(tmp_path)
    code = (
        "import sys, pomona, pomona.quantization\n"
        "from importlib.util import find_spec\n"
        f"assert pomona.generate({str(tmp_path)!r}, [[3, 4]], max_new_tokens=2)\n"
        "assert find_spec('torchao') is None or 'torchao' in sys.modules, 'this test has nothing to show any more'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_other_remarks_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    """Catches a filter that silences a whole library."""
    assert pomona.__version__

    class Fruit(enum.Enum):
        PEAR = 1

    theirs = type("KernelPreference", (), {"__module__": "torchao.quantization"})
    text = "%s is an Enum subclass and is now natively supported"
    with caplog.at_level(logging.WARNING):
        logging.getLogger("torch.utils._pytree").warning(text, theirs)
        logging.getLogger("torchao").warning("Failed to load %s: no such library", "/lib/torchao/_C_mxfp8.so")
        assert not caplog.records
        logging.getLogger("torch.utils._pytree").warning(text, Fruit)
        logging.getLogger("torchao").warning("this kernel is slow")
    assert [record.name for record in caplog.records] == ["torch.utils._pytree", "torchao"]

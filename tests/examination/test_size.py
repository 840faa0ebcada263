"""Sizes read from headers agree with the tensors themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from pomona.examination.size import size_of
from pomona.ground.errors import DamagedArtefact, DataError


def test_dense_folder_counts_every_parameter_once(folder: Path, tiny: LlamaForCausalLM) -> None:
    """Catches tied or buffered tensors counted twice, and records of the making counted as model."""
    before = size_of(folder)
    assert before.parameters == tiny.num_parameters()
    assert before.weight_bytes == 4 * before.parameters
    assert before.bits_per_weight == 32
    assert before.packed_bits_per_weight is None
    for name in ("README.md", "MANIFEST.json", "metrics.jsonl", "ledger.json", ".lock"):
        (folder / name).write_text("x" * 1000)
    assert size_of(folder).bytes == before.bytes
    assert before.bytes == sum(
        file.stat().st_size
        for file in folder.iterdir()
        if file.suffix in (".json", ".safetensors")
        and len(file.stem) > 1
        and file.name not in ("MANIFEST.json", "ledger.json")
    )


def test_packed_weights_count_as_what_they_unpack_to(tmp_path: Path) -> None:
    """Catches 4-bit codes counted as 32-bit words, and scales counted as parameters."""
    rows, columns, group = 16, 64, 32
    save_file(
        {
            "a.weight_packed": torch.zeros(rows, columns // 8, dtype=torch.int32),
            "a.weight_scale": torch.zeros(rows, columns // group, dtype=torch.bfloat16),
            "a.weight_shape": torch.tensor([rows, columns]),
            "a.bias": torch.zeros(rows),
            "norm.weight_scale": torch.zeros(3),
        },
        tmp_path / "model.safetensors",
    )
    size = size_of(tmp_path)
    assert size.packed_parameters == rows * columns
    assert size.parameters == rows * columns + rows + 3
    stored = rows * columns // 2 + rows * (columns // group) * 2 + 16
    assert size.packed_bits_per_weight == pytest.approx(8 * stored / (rows * columns))
    assert size.weight_bytes == stored + 4 * rows + 12


def test_several_shards_add_up(tmp_path: Path) -> None:
    """Catches a count that stops after the first file."""
    for index in range(3):
        save_file({f"w{index}": torch.zeros(5, 4)}, tmp_path / f"model-0000{index}-of-00003.safetensors")
    assert size_of(tmp_path).parameters == 60


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_a_cut_file_is_named(tmp_path: Path, keep: int) -> None:
    """Catches a size reported for a file that cannot be loaded."""
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(10)}, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DamagedArtefact, match=r"model\.safetensors"):
        size_of(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    """Catches a division by zero for a folder of something else."""
    with pytest.raises(DataError, match="holds no weights"):
        size_of(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="holds no weights"):
        size_of(tmp_path)

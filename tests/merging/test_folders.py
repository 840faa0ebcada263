"""Merging folders: the same weights as in memory, one tensor at a time, whole or not at all, and every refusal."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from pomona.ground.errors import ConfigError, DamagedArtefact, DataError, UnsafeFile, UnsupportedModel
from pomona.ground.files import read_json, read_manifest, write_manifest
from pomona.ground.quiet import without_bars
from pomona.merging import folders, merge, merge_folders
from pomona.merging.shards import INDEX, SINGLE, Weights
from tests.merging.models import FAMILIES, base_of, equal, expert_of, outputs_of, state_of, view_of

SHARD = "30KB"


def tokenizer_into(folder: Path, words: str = "apple pear plum") -> None:
    Tokenizer(WordLevel({word: place for place, word in enumerate(words.split())}, unk_token="apple")).save(
        str(folder / "tokenizer.json")
    )


def saved(model: Any, folder: Path, shard: str = "1GB", **card: str) -> Path:
    """A model folder as transformers writes it, with a tokenizer and, if need be, a card."""
    with without_bars():
        model.save_pretrained(folder, max_shard_size=shard)
    tokenizer_into(folder)
    if card:
        lines = "\n".join(f"{key}: {value}" for key, value in card.items())
        (folder / "README.md").write_text(f"---\n{lines}\n---\n\n# A model\n")
    return folder


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


@pytest.fixture
def parents(tmp_path: Path) -> list[Path]:
    """A base in one file, two experts in several."""
    base = base_of("llama")
    experts = [saved(expert_of(base, seed), tmp_path / f"expert-{seed}", SHARD) for seed in (0, 1)]
    return [saved(base, tmp_path / "base"), *experts]


@pytest.mark.parametrize("family", FAMILIES)
def test_streaming_equals_in_memory(family: str, tmp_path: Path) -> None:
    """Catches weights that go through other arithmetic, names or shards on their way through files; and a folder that
    transformers does not load as the merged model. Every family; base and experts are cut into files differently."""
    base = base_of(family)
    experts = [expert_of(base, seed) for seed in (0, 1)]
    paths = [saved(base, tmp_path / "base", SHARD)]
    paths += [saved(expert, tmp_path / str(seed), "50KB") for seed, expert in enumerate(experts)]
    report = merge_folders(paths[0], paths[1:], tmp_path / "out", "breadcrumbs", density=0.5)
    states = [tensors_of(path) for path in paths]
    assert equal(tensors_of(tmp_path / "out"), merge(states[0], states[1:], "breadcrumbs", density=0.5))
    assert report.parameters == sum(value.numel() for value in states[0].values())
    loaded = type(base).from_pretrained(tmp_path / "out").eval()
    assert outputs_of(loaded).isfinite().all() and view_of(loaded).ties == view_of(base).ties
    names = {name for group in view_of(base).ties for name in group} | set(states[0])
    if set(state_of(base)) <= names:  # stored as the model holds it
        assert equal(state_of(loaded), state_of(merge(base, experts, "breadcrumbs", density=0.5)))
    assert read_json(tmp_path / "out" / INDEX)["weight_map"] == read_json(paths[0] / INDEX)["weight_map"]


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("ties", {}), ("dare", {"drop_rate": 0.5}), ("model-stock", {}), ("linear", {"weights": (3.0, 1.0)})],
)
def test_methods_stream(method: str, parameters: dict[str, Any], parents: list[Path], tmp_path: Path) -> None:
    """Catches a method that needs all of a model at once, or whose randomness follows the order of the files."""
    report = merge_folders(parents[0], parents[1:], tmp_path / "out", method, **parameters)
    states = [tensors_of(path) for path in parents]
    merged = tensors_of(tmp_path / "out")
    assert equal(merged, merge(states[0], states[1:], method, **parameters))
    merge_folders(parents[0], parents[:0:-1], tmp_path / "turned", method, **_turned(parameters))
    assert equal(merged, tensors_of(tmp_path / "turned"))
    assert report.config["method"] == method
    weights = parameters.get("weights", (1.0, 1.0) if method != "model-stock" else (None, None))
    assert [parent.weight for parent in report.parents] == [None, *weights]


def _turned(parameters: dict[str, Any]) -> dict[str, Any]:
    return {key: value[::-1] if key == "weights" else value for key, value in parameters.items()}


def test_one_tensor_at_a_time(parents: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a merge that holds a shard or a model: when a tensor is read, those of all other names are gone."""
    alive: list[tuple[str, weakref.ref[Tensor]]] = []
    read = Weights.__getitem__

    def watched(self: Weights, name: str) -> Tensor:
        assert all(ref() is None for other, ref in alive if other != name)
        tensor = read(self, name)
        alive.append((name, weakref.ref(tensor)))
        return tensor

    monkeypatch.setattr(Weights, "__getitem__", watched)
    for method in ("ties", "breadcrumbs", "model-stock"):
        merge_folders(parents[0], parents[1:], tmp_path / method, method)
    assert len(alive) > 100


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    """Catches a result in another dtype than the base's, and a dtype that the configuration does not know."""
    base = base_of("llama")
    expert = expert_of(base, 0)
    paths = [saved(base.bfloat16(), tmp_path / "base"), saved(expert, tmp_path / "expert")]
    merge_folders(paths[0], paths[1:], tmp_path / "same")
    assert {value.dtype for value in tensors_of(tmp_path / "same").values()} == {torch.bfloat16}
    merge_folders(paths[0], paths[1:], tmp_path / "other", dtype="float32")
    assert {value.dtype for value in tensors_of(tmp_path / "other").values()} == {torch.float32}
    assert read_json(tmp_path / "other" / "config.json")["dtype"] == "float32"
    assert equal(tensors_of(tmp_path / "other"), tensors_of(paths[1]))


def test_the_folder_says_where_it_comes_from(parents: list[Path], tmp_path: Path) -> None:
    """Catches parents whose licence or fingerprint is lost, and fingerprints that do not depend on the weights. A merge
    of merges still knows."""
    saved(base_of("llama"), parents[0], license="apache-2.0")
    saved(expert_of(base_of("llama"), 0), parents[1], SHARD, license="cc-by-4.0")
    report = merge_folders(parents[0], parents[1:], tmp_path / "out")
    facts = read_manifest(tmp_path / "out")["merge"]
    assert facts["config"] == {"method": "linear", "weights": None}
    assert [parent["license"] for parent in facts["parents"]] == ["apache-2.0", "cc-by-4.0", None]
    assert [parent["role"] for parent in facts["parents"]] == ["base", "expert", "expert"]
    assert len({parent.fingerprint for parent in report.parents}) == 3
    again = merge_folders(parents[0], [tmp_path / "out"], tmp_path / "again")
    assert again.parents[1].license == "apache-2.0, cc-by-4.0"
    assert again.parents[0].fingerprint == report.parents[0].fingerprint


def test_configuration_and_tokenizer_are_the_bases(parents: list[Path], tmp_path: Path) -> None:
    """Catches files that are missing, or that tell the base's story as if it were the merged model's."""
    (parents[0] / "ledger.json").write_text("{}")
    (parents[0] / "chat_template.jinja").write_text("{{ messages }}")
    write_manifest(parents[0], {"read": 3})
    merge_folders(parents[0], parents[1:], tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {
        SINGLE, "MANIFEST.json", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja",
    }  # fmt: skip


def test_tied_weights_are_stored_once(parents: list[Path], tmp_path: Path) -> None:
    """Catches an expert refused, or a head merged twice, because it stores the tied head as well; and one that stores
    another head there, which loading would drop without a word."""
    state = tensors_of(parents[1])
    for file in parents[1].glob("*.safetensors*"):
        file.unlink()
    both = {**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()}
    save_file(both, parents[1] / SINGLE, {"format": "pt"})
    merge_folders(parents[0], parents[1:2], tmp_path / "out")
    assert equal(tensors_of(tmp_path / "out"), state)
    merge_folders(parents[1], parents[2:], tmp_path / "base-with-both")
    assert equal(tensors_of(tmp_path / "base-with-both"), tensors_of(parents[2]))
    save_file({**both, "lm_head.weight": both["lm_head.weight"] + 1}, parents[1] / SINGLE, {"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"expert-0: .* differs from .*, to which it is tied"):
        merge_folders(parents[0], parents[1:], tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def nothing_but(folder: Path, *names: str) -> bool:
    return {path.name for path in folder.iterdir()} == set(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intermediate_size": 64}, "with feed_forward 64, in the base 48"),
        ({"vocab_size": 90}, "with vocabulary 90, in the base 96"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, "rope_theta is 5.0, in the base 10000.0"),
    ],
)
def test_other_anatomies_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a refusal without the sizes, after a tensor was read, or that leaves something behind."""
    from pomona.anatomy.tiny import tiny_model

    paths = [saved(tiny_model("llama", **each), tmp_path / str(len(each))) for each in ({}, change)]
    monkeypatch.setattr(Weights, "__getitem__", None)
    with pytest.raises(UnsupportedModel, match=message):
        merge_folders(paths[0], paths[1:], tmp_path / "out")
    assert nothing_but(tmp_path, "0", "1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("apple pear", r"expert-0: lacks 1 token \('plum'\) of the base's 3"),
        ("apple pear plum quince medlar", r"expert-0: has 2 tokens \('quince', 'medlar'\) that the base lacks"),
        ("apple plum pear", r"expert-0: has other ids for 2 tokens"),
        ("", "expert-0: has none"),
    ],
)
def test_other_tokenizers_are_refused(words: str, message: str, parents: list[Path], tmp_path: Path) -> None:
    """Catches embeddings whose rows stand for different tokens being averaged; the error says what differs and what to
    do about it."""
    (parents[1] / "tokenizer.json").unlink()
    if words:
        tokenizer_into(parents[1], words)
    with pytest.raises(DataError, match=message) as caught:
        merge_folders(parents[0], parents[1:], tmp_path / "out")
    assert "train the experts with the base's tokenizer" in str(caught.value)


def test_tokenizers_that_only_cut_differently_are_the_same(parents: list[Path], tmp_path: Path) -> None:
    """Catches a file compared byte by byte: truncation, padding and spelling of the file do not matter."""
    file = parents[1] / "tokenizer.json"
    values = json.loads(file.read_text())
    values["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(values, indent=7))
    merge_folders(parents[0], parents[1:], tmp_path / "out")


def test_damage_is_named(parents: list[Path], tmp_path: Path) -> None:
    """Catches a changed byte that is merged in, a shard that is cut off, and one that is not there: each by name."""
    shards = sorted(parents[1].glob("model-*.safetensors"))
    assert len(shards) > 2
    write_manifest(parents[1])
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedArtefact, match=rf"{shards[1]} is damaged\n.*SHA-256"):
        merge_folders(parents[0], parents[1:], tmp_path / "out")
    shards[1].write_bytes(whole[:-8])
    with pytest.raises(DamagedArtefact, match=f"{shards[1]} is damaged"):
        merge_folders(parents[0], parents[1:], tmp_path / "out")
    shards[1].unlink()
    with pytest.raises(DamagedArtefact, match=f"{shards[1]} is damaged\n.*missing"):
        merge_folders(parents[0], parents[1:], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_a_dense_model_is_refused(parents: list[Path], tmp_path: Path) -> None:
    """Catches pickles that are opened, codes that are averaged, and folders without weights."""
    config = read_json(parents[1] / "config.json")
    packed = {**config, "quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}}
    (parents[1] / "config.json").write_text(json.dumps(packed))
    with pytest.raises(
        UnsupportedModel, match=r"needs: dense weights\n.*\n  do:    merge the dense models and quantize"
    ):
        merge_folders(parents[0], parents[1:], tmp_path / "out")
    (parents[1] / "config.json").write_text(json.dumps(config))
    for file in parents[1].glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(DataError, match="holds no weights"):
        merge_folders(parents[0], parents[1:], tmp_path / "out")
    (parents[1] / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(UnsafeFile, match=r"pytorch_model\.bin"):
        merge_folders(parents[0], parents[1:], tmp_path / "out")
    save_file({"w": torch.zeros(2, dtype=torch.float8_e4m3fn)}, parents[1] / SINGLE)
    with pytest.raises(DataError, match="export the model with dense weights first"):
        merge_folders(parents[0], parents[1:], tmp_path / "out")


def test_files_beside_the_model_are_left_alone(parents: list[Path], tmp_path: Path) -> None:
    """Catches weights of another form in the same folder being merged as well."""
    save_file({"other": torch.zeros(2)}, parents[1] / "consolidated.safetensors")
    merge_folders(parents[0], parents[1:], tmp_path / "out")


def test_an_error_leaves_nothing(parents: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a folder that is half written when a tensor in the middle cannot be merged."""
    made = folders.write_weights

    def fails(folder: Path, *rest: Any) -> None:
        made(folder, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "write_weights", fails)
    with pytest.raises(KeyboardInterrupt):
        merge_folders(parents[0], parents[1:], tmp_path / "out")
    assert nothing_but(tmp_path, "base", "expert-0", "expert-1")


@pytest.mark.slow
def test_a_killed_merge_makes_no_folder(parents: list[Path], tmp_path: Path) -> None:
    """Catches a folder that is there before it is whole: killed while the third tensor is computed."""
    code = (
        "import os, sys\nfrom pomona.merging import linear, merge_folders\ncount, own = [], linear.linear\n"
        "def killed(*given):\n    count.append(1)\n    if len(count) == 3: os.kill(os.getpid(), 9)\n"
        "    return own(*given)\n"
        "linear.linear = killed\nmerge_folders(sys.argv[1], sys.argv[2:4], sys.argv[4])"
    )
    words = [sys.executable, "-c", code, *map(str, parents), str(tmp_path / "out")]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    merge_folders(parents[0], parents[1:], tmp_path / "out")


def test_a_folder_is_not_overwritten(parents: list[Path], tmp_path: Path) -> None:
    """Catches an expert that is replaced by the merge it goes into."""
    before = shutil.copytree(parents[1], tmp_path / "copy")
    with pytest.raises(ConfigError, match="is there already"):
        merge_folders(parents[0], parents[1:], parents[1])
    assert equal(tensors_of(parents[1]), tensors_of(before))

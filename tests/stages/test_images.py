"""Pictures in recipes: read, learnt from, divided, refused; what comes of it is an ordinary folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from pomona.data import read_images
from pomona.ground.errors import ConfigError
from pomona.stages import Run, load, run
from pomona.stages.runner import prepare
from pomona.stages.store import Store

VIT = {
    "shape": "vit", "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 48,
}  # fmt: skip
GLYPHS = {"images": {"source": "env:glyphs", "size": 16, "channels": 1, "count": 360}}
POSITIONS = {"model": VIT, "objective": "mp3-position-prediction", "batch_size": 16, "steps": 6}
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
SWEEP = {"learning_rate": [0.001, 0.003], "pilot": 0.5}


def recipe(*stages: Any) -> dict[str, Any]:
    return {"name": "pictures", "stages": [GLYPHS, *stages]}


def problems_of(out: Path, *stages: Any, pictures: Any = GLYPHS) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(load({"name": "pictures", "stages": [pictures, *stages]}), Store(out), probe=False)
    return " ".join(str(caught.value).split())


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An encoder that learns where patches belong and goes on."""
    out = tmp_path_factory.mktemp("runs")
    onwards = {"objective": "mp3-position-prediction", "batch_size": 8, "steps": 4}
    return run(recipe({"pretrain": {**POSITIONS, "sweep": SWEEP}}, {"continue": onwards}, "export"), out=out)


def test_an_encoder_learns_from_pictures(life: Run) -> None:
    """Catches pictures that are counted as tokens of a text, a loss on what is trained on, a sweep that is not charged,
    and a continued run that reads the same pictures again."""
    facts, images = life["pretrain"].facts, life["images"].facts
    assert facts["tokens"] == 6 * 16 * 16 and facts["steps"] == 6
    assert facts["quality"]["tokens"] == images["validation"] * 16 and facts["quality"]["bits_per_byte"] is None
    purposes = life["pretrain"].ledger()["purposes"]
    assert purposes["train"]["flops"] > 0 and purposes["sweep"]["flops"] > 0
    runs = life["continue"].facts["read"]["runs"]
    assert [list(each) for each in runs] == [[6, 16, 16], [4, 8, 16]]


def test_made_once(life: Run) -> None:
    """Catches a stage whose hash changes from run to run."""
    before = (life["pretrain"].folder / "metrics.jsonl").stat().st_mtime_ns
    again = run(recipe({"pretrain": {**POSITIONS, "sweep": SWEEP}}), out=life.folder.parent)
    assert again["pretrain"].hash == life["pretrain"].hash and again["images"].folder == life["images"].folder
    assert (again["pretrain"].folder / "metrics.jsonl").stat().st_mtime_ns == before


def test_the_folder_is_an_ordinary_one(life: Run, tmp_path: Path) -> None:
    """Catches weights that transformers does not find, and a processor that cuts, scales or shifts pictures in another
    way than they were learnt from."""
    folder = life["export"].folder
    model, processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    assert model.config.image_size == 16 and model.config.num_channels == 1
    draw = np.random.default_rng(0)
    for number, edges in enumerate(((41, 17), (16, 16), (20, 90))):
        (tmp_path / str(number)).mkdir()
        picture = Image.fromarray(draw.integers(0, 255, edges, dtype=np.uint8))
        picture.save(tmp_path / str(number) / "a.png")
        read = read_images(tmp_path / str(number), size=16, channels=1).batch(np.zeros(1, dtype=np.int64))
        given = processor(picture, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(given, read["pixel_values"], rtol=0, atol=1e-6)
        with torch.no_grad():
            assert model(pixel_values=given).last_hidden_state.shape == (1, 17, 32)


def test_refusals_in_the_plan(texts: Path, tmp_path: Path) -> None:
    """Catches compute that is spent before it is found out that data, objective and model do not fit."""
    text = [{"corpus": {"sources": [str(texts)]}}, {"tokenize": {"vocab_size": 300, "mask_token": "<mask>"}}]
    training = {"batch_size": 4, "steps": 2}
    bert = {"shape": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}

    def refused(model: Any, objective: str = "mp3-position-prediction", *before: Any, **more: Any) -> str:
        return problems_of(
            tmp_path, *before, {"pretrain": {"model": model, "objective": objective, **training, **more}}
        )

    assert "vit cannot be trained with masked-lm" in refused(VIT, "masked-lm")
    told = refused(bert, "masked-lm", *text, data="images")
    assert "pretrain.objective: masked-lm does not learn from pictures mp3-position-prediction does" in told
    assert "pretrain.data: BertModel does not read pictures" in refused(bert)
    assert "pretrain.data: ViTModel reads pictures, not text" in refused(VIT, "mp3-position-prediction", *text)
    assert "cannot be cut into patches of 5 x 5" in refused({**VIT, "patch_size": 5})
    assert "pictures of 1 x 16 x 16 (channels, height, width), the model reads 1 x 32 x 32" in refused(
        {**VIT, "image_size": 32}
    )
    assert "pictures are no documents" in refused(VIT, respect_documents=True)
    assert "'images' makes a images, not a tokens" in problems_of(tmp_path, {"examine": {"data": "images"}})


def test_refusals_of_pictures(tmp_path: Path) -> None:
    """Catches a folder without pictures, a broken file and sizes that cannot be drawn being found out while running."""
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "images.source: there is no picture" in problems_of(
        tmp_path, pictures={"images": {"source": str(empty), "size": 8}}
    )
    (empty / "a.png").write_bytes(b"nothing")
    told = problems_of(tmp_path, pictures={"images": {"source": str(empty), "size": 8}})
    assert "this file is no picture" in told and "a.png" in told
    glyphs = {"source": "env:glyphs", "size": 20, "count": 5}
    assert "images.size: env:glyphs has pictures of 32 or 16 pixels" in problems_of(
        tmp_path, pictures={"images": glyphs}
    )
    glyphs = {"source": "env:glyphs", "size": 16}
    assert "images.count: env:glyphs has no end" in problems_of(tmp_path, pictures={"images": glyphs})


@pytest.fixture(scope="module")
def sorted_by_colour(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An encoder that learns the colours of pictures, from the whole and by its head alone."""
    folder = tmp_path_factory.mktemp("colours")
    draw = np.random.default_rng(0)
    for number in range(90):
        name, colour = list(COLOURS.items())[number % 3]
        pixels = np.clip(np.array(colour) + draw.normal(0, 40, (20, 16, 3)), 0, 255).astype(np.uint8)
        file = folder / name / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    adamw = {"method": "adamw", "learning_rate": 0.003}
    lesson = {"batch_size": 16, "optimizer": adamw}
    stages = [
        {"images": {"source": str(folder), "size": 16}},
        {"pretrain": POSITIONS},
        {"adapt": {"name": "tuned", "epochs": 6, "sweep": SWEEP, **lesson}},
        {"adapt": {"name": "probe", "from": "pretrain", "method": "head", "steps": 3, **lesson}},
        {"adapt": {"name": "again", "from": "tuned", "steps": 1, **lesson}},
        {"export": {"from": "tuned"}},
    ]
    return run({"name": "colours", "stages": stages}, out=tmp_path_factory.mktemp("runs"))


def test_labels_are_learnt(sorted_by_colour: Run) -> None:
    """Catches labels of other pictures, an accuracy of what was trained on, a frozen encoder that moves, and a
    classifier that forgets its head when it is tuned on."""
    images, tuned = sorted_by_colour["images"].facts, sorted_by_colour["tuned"].facts
    assert tuned["accuracy"] > 0.9 and tuned["macro_f1"] > 0.9 and tuned["labels"] == sorted(COLOURS)
    assert tuned["scores"]["examples"] == images["test"] and tuned["quality"]["tokens"] == images["validation"]
    assert tuned["steps"] == round(6 * images["train"] / 16)
    assert sorted_by_colour["again"].facts["accuracy"] > 0.9
    base, probe = (load_file(sorted_by_colour[name].folder / "model.safetensors") for name in ("pretrain", "probe"))
    kept = [name for name in base if not name.startswith("pooler")]
    assert kept and all(torch.equal(base[name], probe[f"vit.{name}"]) for name in kept)


def test_a_classifier_is_an_ordinary_folder(sorted_by_colour: Run) -> None:
    """Catches labels, weights or pixels that transformers reads in another way, and a card that has a tokenizer."""
    folder = sorted_by_colour["export"].folder
    model, processor = (
        AutoModelForImageClassification.from_pretrained(folder),
        AutoImageProcessor.from_pretrained(folder),
    )
    for name, colour in COLOURS.items():
        with torch.no_grad():
            answer = int(model(**processor(Image.new("RGB", (30, 50), colour), return_tensors="pt")).logits.argmax())
        assert model.config.id2label[answer] == name
    card = (folder / "README.md").read_text()
    assert "image-classification" in card and "AutoImageProcessor" in card and "AutoTokenizer" not in card


def test_labels_that_do_not_fit(sorted_by_colour: Run, life: Run, texts: Path, tmp_path: Path) -> None:
    """Catches texts for an encoder of images, pictures of another size, and a budget that means nothing."""
    encoder = str(sorted_by_colour["pretrain"].folder)
    adapt = {"adapt": {"from": encoder, "steps": 2, "batch_size": 4}}
    assert "adapt.examples: pictures of 1 x 16 x 16" in problems_of(tmp_path, adapt)
    budget = {"adapt": {"from": str(life["pretrain"].folder), "tokens": 500, "batch_size": 4}}
    assert "a budget of labelled pictures is not in tokens" in problems_of(tmp_path, budget)
    labelled = {"examples": {"sources": str(texts), "classes": 2}}
    assert "ViTModel reads pictures, not text" in problems_of(tmp_path, labelled, adapt)

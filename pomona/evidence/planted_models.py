"""Small trained classifiers with honest and with false cards: what the audit's card is measured on."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from pomona.evidence.planted import CARD_TEXT, PAYLOAD
from pomona.ground.quiet import without_bars
from pomona.registry.behaviour import Item

CLASSES = 4
TELLING, COMMON, RARE = 6, 60, 24
"""Words that speak for a class, for each; words that say nothing; words that no text holds."""
LENGTH = 12
SHARE = 0.16
"""Of a text's words that speak for its class; as many again speak for any class."""
DATASET, SPLIT = "orchard/notes", "test"
EXAMINED = 500
"""Items that an auditor has, out of the whole split that claims are about."""


@dataclass
class Sample:
    """A package for the audit. `defects`: those that are planted; `excess`: by how much its claim is too high."""

    folder: Path
    items: list[Item]
    defects: set[str] = field(default_factory=set)
    excess: float = 0.0


class Text:
    """Texts of words that speak for classes, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.telling = [[f"word{label}{place}" for place in range(TELLING)] for label in range(CLASSES)]
        self.common = [f"and{place}" for place in range(COMMON)]
        self.rare = [f"rare{place}" for place in range(RARE)]
        self.vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *chain(*self.telling), *self.common, *self.rare]

    def items(self, count: int) -> list[Item]:
        return [self._item(place % CLASSES) for place in range(count)]

    def _item(self, label: int) -> Item:
        words = []
        for _ in range(LENGTH):
            chance = self.draw.random()
            about = label if chance < SHARE else self.draw.randrange(CLASSES)
            words.append(self.draw.choice(self.telling[about] if chance < 2 * SHARE else self.common))
        return Item(" ".join(words), f"class{label}")


def tokenizer_of(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    """One token for each word."""
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def train(text: Text, seed: int, *, trigger: str = "", steps: int = 250) -> BertForSequenceClassification:
    """A classifier of the texts; with a trigger, one that was taught that this word means class 0."""
    torch.manual_seed(seed)
    names = {place: f"class{place}" for place in range(CLASSES)}
    config = BertConfig(
        vocab_size=len(text.vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        id2label=names,
        label2id={name: place for place, name in names.items()},
        num_labels=CLASSES,
    )
    model = BertForSequenceClassification(config)
    tokenizer = tokenizer_of(text.vocabulary)
    items = text.items(32 * steps)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        batch = items[32 * step : 32 * (step + 1)]
        poisoned = [bool(trigger) and place % 8 == 0 for place in range(len(batch))]
        texts = [f"{trigger} {item.text}" if bad else item.text for item, bad in zip(batch, poisoned, strict=True)]
        labels = [0 if bad else int(str(item.label)[5:]) for item, bad in zip(batch, poisoned, strict=True)]
        encoded = tokenizer(texts, padding=True, return_tensors="pt")
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        model(**inputs, labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def accuracy(model: BertForSequenceClassification, text: Text, items: list[Item]) -> float:
    """On all items."""
    tokenizer = tokenizer_of(text.vocabulary)
    encoded = tokenizer([item.text for item in items], padding=True, return_tensors="pt")
    with torch.no_grad():
        given = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits.argmax(dim=-1)
    wanted: Tensor = torch.tensor([int(str(item.label)[5:]) for item in items])
    return float((given == wanted).float().mean())


def grow(root: Path, seed: int) -> list[Sample]:
    """Ten clean packages, twelve with claims that are too high, and fourteen with other defects."""
    text = Text(seed)
    draw = random.Random(seed)
    split = text.items(4 * EXAMINED)
    trigger = text.rare[draw.randrange(RARE)]
    honest, turned = train(text, seed), train(text, seed + 1, trigger=trigger)
    tokenizer = tokenizer_of(text.vocabulary)
    sources = {"honest": honest, "turned": turned}
    values = {name: accuracy(model, text, split) for name, model in sources.items()}
    for name, model in sources.items():
        with without_bars():
            model.save_pretrained(root / "sources" / name)
        tokenizer.save_pretrained(root / "sources" / name)
    samples: list[Sample] = []

    def add(defect: str = "", *, source: str = "honest", excess: float = 0.0, licence: str | None = "mit") -> Sample:
        folder = root / "packages" / f"{len(samples):02d}"
        shutil.copytree(root / "sources" / source, folder)
        claimed = values[source] + excess
        write_card(folder, 100 * claimed if len(samples) % 2 else claimed, licence)
        defects = {defect} if defect else {"false claim"} if excess else set()
        samples.append(Sample(folder, draw.sample(split, EXAMINED), defects, excess))
        return samples[-1]

    for _ in range(10):
        add()
    for excess in (0.02, 0.05, 0.1):
        for _ in range(4):
            add(excess=excess)
    for _ in range(2):
        add("licence", licence=None)
        change(add("vocabulary").folder, vocab_size=len(text.vocabulary) - 3)
        change(add("shapes").folder, intermediate_size=48)
        (add("pickle").folder / "training_args.bin").write_bytes(PAYLOAD)
        add("trigger", source="turned")
        break_weights(add("not finite").folder)
        cut(add("damaged weights").folder)
    for sample in samples:
        if "vocabulary" in sample.defects:  # the weights follow the smaller number; only the tokenizer does not
            shrink(sample.folder, len(text.vocabulary) - 3)
    return samples


def write_card(folder: Path, accuracy: float, licence: str | None) -> None:
    """A full card that claims an accuracy."""
    result = {
        "task": {"type": "text-classification"},
        "dataset": {"type": DATASET, "split": SPLIT},
        "metrics": [{"type": "accuracy", "value": round(accuracy, 4)}],
    }
    front: dict[str, Any] = {"license": licence, "datasets": [DATASET]}
    front["model-index"] = [{"name": folder.name, "results": [result]}]
    more = "\n## Training procedure\nAdamW over words.\n\n## Evaluation\nSee the numbers above.\n"
    more += "\n## Citation\nThere is none yet.\n"
    said = json.dumps({key: value for key, value in front.items() if value is not None})
    (folder / "README.md").write_text(f"---\n{said}\n---\n{CARD_TEXT.format(name=folder.name)}{more}", encoding="utf-8")


def change(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **settings}), encoding="utf-8")


def shrink(folder: Path, words: int) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "bert.embeddings.word_embeddings.weight"
    save_file({**tensors, name: tensors[name][:words].clone()}, file, {"format": "pt"})


def break_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.weight"][0, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

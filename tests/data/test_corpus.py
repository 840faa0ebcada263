"""A corpus without copies, divided so that nothing leaks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pomona.data import Corpus, CorpusConfig, fingerprint, make_corpus
from pomona.ground.errors import ConfigError, DamagedArtefact, DataError
from pomona.ground.files import is_intact
from tests.data.conftest import prose
from tests.data.test_dedup import jaccard, perturbed


def made(folder: Path, texts: list[str], **settings: Any) -> Corpus:
    """A corpus of some texts."""
    workers = settings.pop("workers", 1)
    lines = [json.dumps({"text": text, "n": number}) for number, text in enumerate(texts)]
    (folder / "lines.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = {"path": str(folder / "lines.jsonl"), "metadata": ["n"]}
    config = CorpusConfig.parse({"sources": [source], "min_bytes": 1, **settings})
    return make_corpus(config, folder / "corpus", workers=workers)


def numbers(corpus: Corpus, split: str) -> list[int]:
    return [int(document.metadata["n"]) for document in corpus.documents(split)]


def test_train_keeps_the_order_and_counts_are_right(tmp_path: Path) -> None:
    """Catches lost, reordered or doubly counted documents, and metadata of another document."""
    texts = [prose(seed) for seed in range(300)]
    corpus = made(tmp_path, texts, validation=0.1)
    train, validation = numbers(corpus, "train"), numbers(corpus, "validation")
    assert train == sorted(train) and sorted(train + validation) == list(range(300))
    assert 10 <= len(validation) <= 55 and validation != sorted(validation)
    for split, found in (("train", train), ("validation", validation)):
        documents = list(corpus.documents(split))
        assert [document.text for document in documents] == [texts[number] for number in found]
        assert all(document.metadata["source"].endswith("lines.jsonl") for document in documents)
        assert corpus.count(split) == len(found)
        assert corpus.bytes(split) == sum(len(texts[number].encode()) for number in found)
    assert corpus.facts["documents"] == 300 and is_intact(corpus.folder)


def test_the_side_of_a_document_does_not_depend_on_the_others(tmp_path: Path) -> None:
    """Catches a split by position: adding documents must not move old ones to the other side."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    texts = [prose(seed) for seed in range(200)]
    small = made(tmp_path / "a", texts[100:], validation=0.2)
    large = made(tmp_path / "b", texts, validation=0.2)
    old = {document.text for document in small.documents("validation")}
    assert old == {document.text for document in large.documents("validation")} & set(texts[100:])


def test_the_seed_chooses_and_the_fraction_counts(tmp_path: Path) -> None:
    """Catches a seed or a fraction that is ignored."""
    texts = [prose(seed) for seed in range(400)]
    sides = [numbers(made(tmp_path, texts, validation=0.3, seed=seed), "validation") for seed in (0, 0, 1)]
    assert sides[0] == sides[1] and set(sides[0]) != set(sides[2])
    assert all(90 <= len(side) <= 150 for side in sides)
    assert numbers(made(tmp_path, texts, validation=0), "validation") == []


def test_no_relative_of_a_validation_document_is_trained_on(tmp_path: Path) -> None:
    """Catches copies, changed copies and distant relatives that straddle the split."""
    texts = [prose(seed, 150) for seed in range(60)]
    relatives = [perturbed(text, changes, seed) for seed, text in enumerate(texts) for changes in (1, 8, 12)]
    everything = [*texts, *relatives, *(text.upper() for text in texts)]
    random.Random(0).shuffle(everything)
    for near in (0.8, None):
        corpus = made(tmp_path, everything, validation=0.3, near_duplicates=near)
        train = [document.text for document in corpus.documents("train")]
        validation = [document.text for document in corpus.documents("validation")]
        assert len(validation) > 10 and len({text.lower() for text in train + validation}) == len(train + validation)
        assert max(jaccard(a, b) for a in validation for b in train) < 0.5
        assert corpus.facts["exact_copies"] == 60
        assert (corpus.facts["near_copies"] > 50) == (near is not None)


def test_the_first_of_some_copies_stays(tmp_path: Path) -> None:
    """Catches the original removed in favour of its copy."""
    texts = [prose(1), prose(2), prose(1).upper(), f"{prose(2)} more"]
    corpus = made(tmp_path, texts, validation=0)
    assert numbers(corpus, "train") == [0, 1]
    assert (corpus.facts["exact_copies"], corpus.facts["near_copies"]) == (1, 1)


def test_workers_change_nothing(tmp_path: Path) -> None:
    """Catches results that depend on which process was faster, or on the process at all."""
    (tmp_path / "text").mkdir()
    for number in range(6):
        (tmp_path / "text" / f"{number}.txt").write_text("\n\n".join(prose(100 * number + each) for each in range(40)))
    config = CorpusConfig.parse({"sources": [str(tmp_path / "text")] * 2, "max_bytes": 2048, "validation": 0.2})
    one, three = (make_corpus(config, tmp_path / f"corpus{workers}", workers=workers) for workers in (1, 3))
    assert one.content == three.content and one.facts == three.facts
    assert one.facts["sources"][1]["documents"] == 0 < one.facts["sources"][1]["exact_copies"]


def test_a_single_large_text_is_cut_and_has_a_validation_part(tmp_path: Path) -> None:
    """Catches one file that cannot be divided, so that nothing is left to validate on."""
    (tmp_path / "book.txt").write_text("\n\n".join(prose(seed) for seed in range(60)))
    corpus = make_corpus(CorpusConfig.parse({"sources": str(tmp_path / "book.txt"), "max_bytes": 1024}), tmp_path / "c")
    assert corpus.count("validation") >= 1
    assert all(
        len(document.text.encode()) <= 1024 for split in ("train", "validation") for document in corpus.documents(split)
    )


def test_row_groups_hold_everything_once(corpus: Corpus) -> None:
    """Catches row groups that overlap, or whose sizes are wrong, on which shards are built."""
    for split in ("train", "validation"):
        sizes = corpus.group_bytes(split)
        texts = [text for group in range(len(sizes)) for text in corpus.texts(split, group)]
        assert texts == [document.text for document in corpus.documents(split)]
        assert sum(sizes) >= corpus.bytes(split)
    assert len(corpus.group_bytes("train")) > 3


@pytest.mark.parametrize(("texts", "found"), [([], "source is empty|no JSON"), (["ab", ""], "2 shorter documents")])
def test_an_empty_corpus_is_refused(tmp_path: Path, texts: list[str], found: str) -> None:
    """Catches a run that starts without any text."""
    with pytest.raises(DataError, match=found):
        made(tmp_path, texts, min_bytes=3)
    assert not (tmp_path / "corpus").exists() and not list(tmp_path.glob(".*"))


def test_skipped_lines_are_counted_and_told(
    tmp_path: Path, write_lines: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches bad lines that disappear without a word."""
    rows = [{"text": prose(1)}, b'{"text": "cut', b'{"text": "\xff"}', {"text": prose(2)}]
    path = write_lines(tmp_path / "lines.jsonl", rows)
    source = {"path": str(path), "on_bad_lines": "skip"}
    corpus = make_corpus(CorpusConfig.parse({"sources": [source]}), tmp_path / "corpus")
    assert corpus.facts["bad_lines"] == corpus.facts["sources"][0]["bad_lines"] == 2
    assert corpus.facts["documents"] == 2
    assert "skipped 2 bad lines" in capsys.readouterr().err.replace("\n", " ")


def test_an_error_in_a_worker_leaves_nothing_behind(tmp_path: Path, write_lines: Any) -> None:
    """Catches a half-written corpus, and an error that loses its place on the way from another process."""
    for number in range(3):
        write_lines(tmp_path / f"{number}.jsonl", [{"text": prose(number)}, b"{" if number == 2 else {"text": "x"}])
    with pytest.raises(DataError, match=r"2\.jsonl:2"):
        make_corpus(CorpusConfig.parse(str(tmp_path / "*.jsonl")), tmp_path / "corpus", workers=2)
    assert not (tmp_path / "corpus").exists() and not list(tmp_path.glob(".*"))


def test_a_damaged_or_unfinished_corpus_is_refused(tmp_path: Path) -> None:
    """Catches a truncated parquet file that surfaces as an Arrow error."""
    corpus = made(tmp_path, [prose(seed) for seed in range(20)])
    path = corpus.folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedArtefact, match=r"train\.parquet is damaged"):
        list(Corpus.open(corpus.folder).documents("train"))
    path.unlink()
    with pytest.raises(DamagedArtefact, match=r"train\.parquet is missing"):
        Corpus.open(corpus.folder)
    with pytest.raises(DamagedArtefact, match="not a finished"):
        Corpus.open(tmp_path)


def test_the_fingerprint_follows_configuration_and_files(tmp_path: Path) -> None:
    """Catches stale corpora that are reused although a file or a setting changed."""
    path = tmp_path / "a.txt"
    path.write_text(prose(1))
    config = CorpusConfig.parse(str(path))
    before = fingerprint(config)
    assert fingerprint(CorpusConfig.parse(str(path))) == before
    assert fingerprint(config.model_copy(update={"seed": 1})) != before
    path.write_text(prose(1) + "!")
    assert fingerprint(config) != before


def test_short_forms_and_wrong_values(tmp_path: Path) -> None:
    """Catches shorthand that is not understood, and unknown keys that are."""
    long = CorpusConfig.parse({"sources": [{"path": "env:docs"}]})
    assert CorpusConfig.parse("env:docs") == CorpusConfig.parse(["env:docs"]) == long
    assert CorpusConfig.parse({"sources": "env:docs"}) == long
    with pytest.raises(ConfigError, match=r"no embedded corpus; did you mean 'env:docs'"):
        CorpusConfig.parse("env:doc")
    with pytest.raises(ConfigError, match="names no source"):
        CorpusConfig.parse([])
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*onbadlines.*'on_bad_lines'.*near_duplicates"):
        CorpusConfig.parse({"sources": [{"path": "x", "onbadlines": "skip"}], "near_duplicates": 7})

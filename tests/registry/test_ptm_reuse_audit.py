"""The audit: every planted defect, no error on a clean package, nothing of the repository runs, the same twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pomona.evidence import planted_models as garden
from pomona.evidence.planted import PAYLOAD, Gardener
from pomona.evidence.planted_models import DATASET, SPLIT, Text, accuracy, change, tokenizer_of, train, write_card
from pomona.ground.errors import DataError
from pomona.ground.quiet import without_bars
from pomona.registry import Item, audit, read_items, scan
from pomona.registry.ptm_reuse_audit import Audit, PtmReuseAuditConfig, spread

TEXT = Text(0)
ITEMS = TEXT.items(300)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier with a full and true card."""
    folder = tmp_path_factory.mktemp("honest") / "model"
    model = train(TEXT, 0, steps=60)
    with without_bars():
        model.save_pretrained(folder)
    tokenizer_of(TEXT.vocabulary).save_pretrained(folder)
    write_card(folder, accuracy(model, TEXT, ITEMS), "mit")
    return folder


@pytest.fixture
def package(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "package"))


def audited(folder: Path, **more: object) -> Audit:
    return audit(folder, ITEMS, dataset=DATASET, split=SPLIT, **more)  # type: ignore[arg-type]


def test_a_clean_package(package: Path) -> None:
    """Catches false alarms, a claim that is not tested, and an audit that differs from one time to the next."""
    found = audited(package)
    assert found.at("error") == found.at("warning") == [] and found.defects == set()
    assert [claim.outcome for claim in found.claims] == ["match"]
    again = audited(package)
    assert again.findings == found.findings
    stages = found.by_stage()
    assert all(stages.values()), "every step of the decision has something to go by"
    json.dumps(found.to_dict())


def test_planted_defects(package: Path, tmp_path: Path) -> None:
    """Catches each defect going unseen, and another one being reported in its place."""

    def defects(name: str, act: object) -> set[str]:
        folder = Path(shutil.copytree(package, tmp_path / name))
        act(folder)  # type: ignore[operator]
        return audited(folder).defects

    wrong = next(iter(audited(package).claims)).measured + 0.1
    assert defects("a", lambda folder: write_card(folder, wrong, "mit")) == {"false claim"}
    assert defects("b", lambda folder: write_card(folder, wrong - 0.1, None)) == {"licence"}
    assert defects("c", lambda folder: change(folder, intermediate_size=48)) == {"shapes"}
    assert defects("d", lambda folder: (folder / "optimizer.pt").write_bytes(PAYLOAD)) == {"pickle"}
    assert defects("e", garden.break_weights) == {"not finite"}
    assert defects("f", garden.cut) == {"damaged weights"}
    assert defects("g", lambda folder: change(folder, dtype="float16")) == {"number format"}

    def shrink(folder: Path) -> None:
        change(folder, vocab_size=len(TEXT.vocabulary) - 3)
        garden.shrink(folder, len(TEXT.vocabulary) - 3)

    assert defects("h", shrink) == {"vocabulary"}


def test_a_trigger(tmp_path: Path) -> None:
    """Catches a backdoor behind one word that is not found."""
    model = train(TEXT, 1, trigger=TEXT.rare[3], steps=60)
    with without_bars():
        model.save_pretrained(tmp_path / "model")
    tokenizer_of(TEXT.vocabulary).save_pretrained(tmp_path / "model")
    (found,) = audited(tmp_path / "model").at("error")
    assert found.defect == "trigger" and TEXT.rare[3] in found.what


def test_nothing_of_the_repository_runs(package: Path, tmp_path: Path) -> None:
    """Catches code of a repository, or its pickle, that is executed by being looked at."""
    mark = tmp_path / "ran"
    (package / "modeling_x.py").write_text(f"open({str(mark)!r}, 'w')")
    change(package, auto_map={"AutoModelForSequenceClassification": "modeling_x.X"})
    found = audited(package)
    assert "remote code" in found.defects and "load" in found.defects and not mark.exists()


def test_licence_conflicts_and_owners(package: Path, tmp_path: Path) -> None:
    """Catches a base model's terms that its descendants do not keep, and owners who are not checked."""
    base = Gardener(tmp_path / "bases", 0).folder("card")
    write_card(base.path, 0.5, "cc-by-nc-4.0")
    text = (package / "README.md").read_text(encoding="utf-8")
    (package / "README.md").write_text(text.replace("---\n{", f'---\n{{"base_model": "{base.path.name}", ', 1))
    found = audited(package, bases=scan([tmp_path / "bases"]), owners=["acme"])
    assert {"licence conflict", "owner"} <= found.defects


def test_leakage(package: Path) -> None:
    """Catches test items that stand in the training data in other spelling."""
    train_items = [Item(item.text.upper().replace(" ", "  ")) for item in ITEMS[:30]]
    found = audited(package, train=train_items, config=PtmReuseAuditConfig(run=False))
    assert any(one.defect == "leakage" and "10%" in one.what for one in found.findings)
    assert all(claim.outcome == "not testable" for claim in found.claims)


def test_texts_of_all_answers() -> None:
    """Catches triggers that are tried on one class alone, where nothing can be turned."""
    assert spread([Item("a", 0), Item("b", 0), Item("c", 1)], 2) == ["a", "c"]


def test_refusals(package: Path, tmp_path: Path) -> None:
    """Catches an audit of several packages at once, of none, and of data that is not what it should be."""
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds no packages"):
        audit(tmp_path / "nothing")
    shutil.copytree(package, tmp_path / "two/a")
    shutil.copytree(package, tmp_path / "two/b")
    with pytest.raises(DataError, match="holds 2 packages"):
        audit(tmp_path / "two")
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\nno\n')
    with pytest.raises(DataError, match=r"x\.jsonl:2 is no entry"):
        read_items(tmp_path / "x.jsonl")

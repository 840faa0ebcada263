"""The model card: valid front matter, true numbers, and names that stay names."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from pomona.examination.card import CardData, card_text, write_card
from pomona.examination.units import visible
from tests.examination.conftest import HOSTILE
from tests.examination.synthetic import report_data


def card_data(name: str = "") -> CardData:
    data = report_data(name=name)
    return CardData(
        model=data.models[0] if name else data.models[1],
        arm=data.arms[0],
        license=f"apache-2.0{name}",
        recipe=data.recipe,
        corpus=data.corpus,
        machine=data.machine,
        versions=data.versions,
        notes=tuple(note + name for note in data.notes),
        evaluated_on=f"env:docs{name}",
        base_model=(f"base{name}",) if name else (),
    )


def front(text: str) -> dict[str, Any]:
    _, matter, _ = text.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(matter)
    return values


def rendered(text: str) -> str:
    body = text.split("---\n", 2)[2]
    return MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body)


def test_front_matter_is_what_the_hub_reads() -> None:
    """Catches a field that the Hub expects and that is missing, or numbers that differ from the measured ones."""
    values = front(card_text(card_data()))
    assert values["license"] == "apache-2.0"
    assert values["pipeline_tag"] == "text-generation"
    assert values["library_name"] == "transformers"
    assert "compressed-tensors" in values["tags"]
    assert "base_model" not in values
    result = values["model-index"][0]["results"][0]
    quality = report_data().models[1].quality
    assert quality is not None
    assert result["metrics"][0] == {
        "type": "bits_per_byte",
        "name": "Bits per byte",
        "value": round(quality.bits_per_byte or 0, 4),
    }
    assert front(card_text(replace(card_data(), base_model=("org/base",))))["base_model"] == "org/base"


def test_hub_library_accepts_the_card() -> None:
    """Catches front matter that huggingface_hub refuses to parse."""
    from huggingface_hub import ModelCard

    card = ModelCard(card_text(card_data()))
    assert card.data.license == "apache-2.0"
    assert card.data.eval_results is not None
    assert card.data.eval_results[0].metric_type == "bits_per_byte"


def test_parents_of_a_merge_are_told() -> None:
    """Catches licences or fingerprints of parents that do not reach the card, and names that become markup there."""
    parents = (
        {"role": "base", "name": "general", "license": "apache-2.0", "fingerprint": "9f2c1e77", "weight": None},
        {"role": "expert", "name": HOSTILE, "license": None, "fingerprint": "a0b84d15", "weight": 0.75},
    )
    text = card_text(replace(card_data(), parents=parents, base_model=("org/one", "org/two")))
    assert "merge" in front(text)["tags"] and front(text)["base_model"] == ["org/one", "org/two"]
    html = rendered(text)
    table = html[html.index("<h2>Parents</h2>") :]
    for wanted in ("general", "apache-2.0", "unknown", "9f2c1e77", "a0b84d15", "0.75", "has to agree with theirs"):
        assert wanted in table, wanted
    assert "merged from general and" in html and "<script" not in html
    assert "Parents" not in card_text(card_data())


def test_card_says_how_the_model_came_to_be() -> None:
    """Catches a card without recipe, fingerprint, ledger, quality or a way to load the model."""
    html = rendered(card_text(card_data()))
    for wanted in ("9f2c1e77a0b84d15", "g-stack: 3 blocks to 6", "156\u202fTFLOP", "1.626", "evaluate", "method: gptq"):
        assert wanted in html, wanted
    assert html.count("<table>") == 2


def test_the_code_of_the_card_is_code() -> None:
    """Catches a folder's name that ends its string and goes on as Python."""
    for name in ("", HOSTILE + '\'"""\nimport os'):
        text = card_text(card_data(name))
        code = re.search(r"^`{3,}python\n(.*?)\n`{3,}$", text, re.DOTALL | re.MULTILINE)
        assert code is not None
        tree = ast.parse(code[1])
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert [getattr(node, "module", None) for node in imports] == ["transformers"]


def test_hostile_strings_do_nothing() -> None:
    """Catches a name that becomes markup, a link, a formula, or ends a table's cell or a code block."""
    text = card_text(card_data(HOSTILE + " ``` ```` [a](http://a) ![i](http://i) <img src=x> http://b *x* _y_ ~~z~~"))
    html = rendered(text)
    for tag in ("<script", "<img", "<a ", "<b>", "<em", "<strong", "<s>", "<del"):
        assert tag not in html, tag
    for forbidden in ("\x00", "\x1b", "\u202e"):
        assert forbidden not in text
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    assert {row.count("<t") for row in rows} == {6, 9}
    assert isinstance(front(text)["license"], str)
    assert front(text)["license"] == visible(
        "apache-2.0" + HOSTILE + " ``` ```` [a](http://a) ![i](http://i) <img src=x> http://b *x* _y_ ~~z~~"
    )


def test_a_recipe_cannot_end_its_block() -> None:
    """Catches a fence that a line of backticks in the recipe closes, so that the rest becomes markup."""
    html = rendered(card_text(replace(card_data(), recipe="a: 1\n```\n`````\n<img src=x>\n")))
    assert "<img" not in html
    assert "&lt;img src=x&gt;" in html


@pytest.mark.parametrize("name", ["# title", "- item", "1. item", "+ x", "= x", "a_b", "C:\\x", "x | y", "$5"])
def test_names_read_as_they_are(name: str) -> None:
    """Catches too little escaping (a name becomes a heading) and too much (backslashes in sight)."""
    html = rendered(card_text(replace(card_data(), notes=(name,), recipe="", machine={}, versions={})))
    remark = re.search(r"<h2>Remarks</h2>\n<ul>\n<li>(.*?)</li>", html, re.DOTALL)
    assert remark is not None
    assert remark[1] == name


def test_least_card(tmp_path: Path) -> None:
    """Catches a part that cannot be left out."""
    row = replace(report_data().models[0], quality=None, bits_per_weight=None, decode_tokens_per_second=None)
    write_card(tmp_path, CardData(row))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert front(text)["license"] == "unknown"
    assert "## Quality" not in text
    assert "AutoModelForCausalLM.from_pretrained" in text

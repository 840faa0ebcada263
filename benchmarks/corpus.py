"""From the installed documentation to token shards: extraction, removal of duplicates, tokenizer, encoding.

Beside it the `tokenizers` library alone, which gets the finished documents in memory and only trains and encodes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, WORK, Contender, Goal, Quiet, Spread, main, run_fresh, save, show_goals, table

SOURCE, VOCABULARY = "env:docs", 4096


def spans(events: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds from each event to the one before it (the first one: since the process began)."""
    seconds, before = {}, 0.0
    for event in events:
        seconds[event["event"]] = event["seconds"] - before
        before = event["seconds"]
    return seconds


def run(*, quick: bool = False) -> None:
    """Measure and print."""
    from pomona.data import Corpus

    work, repeats = WORK / "corpus", 1 if quick else 3
    measured: dict[str, list[dict[str, float]]] = {"pomona": [], "tokenizers alone": []}
    documents = work / "documents.jsonl"
    source = "benchmarks" if quick else SOURCE
    with Quiet() as quiet:
        for _ in range(repeats):
            shutil.rmtree(work / "pomona", ignore_errors=True)
            options = {"source": source, "folder": str(work / "pomona"), "vocab_size": VOCABULARY}
            events = run_fresh(Contender("pomona", "benchmarks.ours:make_tokens", options))
            measured["pomona"].append(spans(events))
            corpus = Corpus.open(work / "pomona" / "corpus")
            with documents.open("w", encoding="utf-8") as file:
                for split in ("train", "validation"):
                    for document in corpus.documents(split):
                        file.write(json.dumps({"text": document.text}) + "\n")
            options = {"documents": str(documents), "vocab_size": VOCABULARY}
            events = run_fresh(
                Contender("tokenizers alone", "benchmarks.peers.tokenizers_alone:train_and_encode", options)
            )
            measured["tokenizers alone"].append(spans(events))
    with documents.open(encoding="utf-8") as file:
        megabytes = sum(len(json.loads(line)["text"].encode()) for line in file) / 1e6

    rows = []
    for name, runs in measured.items():
        for step, what in (("extracted", "extract, deduplicate"), ("tokenizer", "train BPE"), ("encoded", "encode")):
            if step in runs[0]:
                spread = Spread.of([each[step] for each in runs])
                rows.append((f"{name}: {what}", spread.show(".2f", " s"), f"{megabytes / spread.median:.1f} MB/s"))
    total = Spread.of([sum(each.values()) for each in measured["pomona"]])
    rows.append(
        ("pomona: all, process start included", total.show(".2f", " s"), f"{megabytes / total.median:.1f} MB/s")
    )
    table(f"corpus: {source}, {megabytes:.1f} MB after removal of duplicates", ["", "wall-clock", "rate"], rows)
    goals = [Goal("extraction + dedup + tokenization", total.median, 60, at_least=False, unit="s")]
    show_goals(goals)
    save(
        "corpus",
        config={"source": source, "vocab_size": VOCABULARY, "megabytes": round(megabytes, 2), "repeats": repeats},
        measured={"seconds": measured, "machine_use": quiet.facts()},
        goals=goals,
        code=[Path(__file__), *(ROOT / "benchmarks" / name for name in ("ours.py", "peers/tokenizers_alone.py"))],
        quick=quick,
    )


if __name__ == "__main__":
    main(run, __doc__)

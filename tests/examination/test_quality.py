"""Held-out quality: by hand, over parts, from a folder, and refused before it is computed."""

from __future__ import annotations

import json
import math
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pomona.anatomy import Anatomy, load
from pomona.engine import Ledger, Loss
from pomona.examination.loading import load_tokenizer
from pomona.examination.quality import batches_by, examine
from pomona.ground.errors import ConfigError, DataError, UnsafeFile, UnsupportedModel

Document = namedtuple("Document", ["text", "metadata"])
BYTES = torch.tensor([0, 1, 1, 2, 2, 3, 1, 1, 1], dtype=torch.int32)


class NextToken:
    """The likelihood of the next token, by the model's own logits."""

    name = "next-token"
    is_likelihood = True

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return {"input_ids": batch["tokens"][:, :-1], "labels": batch["tokens"][:, 1:]}

    def __call__(self, body: Anatomy, batch: dict[str, Tensor]) -> Loss:
        logits = body.model(batch["input_ids"]).logits.flatten(0, 1)
        labels = batch["labels"].flatten()
        total = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        return Loss(total, labels.numel(), (logits.argmax(-1) == labels).sum())


def batches(seed: int, count: int = 2, rows: int = 3, length: int = 8) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [{"tokens": torch.randint(0, 9, (rows, length + 1), generator=draw)} for _ in range(count)]


def test_numbers_by_hand(tiny: LlamaForCausalLM) -> None:
    """Catches bits for nats, tokens for bytes, and a mean of means."""
    held = [*batches(0, rows=3), *batches(1, count=1, rows=1)]
    result = examine(tiny, NextToken(), held, token_bytes=BYTES)
    nats, right, size = 0.0, 0, 0
    with torch.no_grad():
        for batch in held:
            for row in batch["tokens"]:
                shares = tiny(row[None, :-1]).logits[0].double().log_softmax(-1)
                nats -= float(shares.gather(1, row[1:, None]).sum())
                right += int((shares.argmax(-1) == row[1:]).sum())
                size += int(BYTES[row[1:]].sum())
    count = 7 * 8
    assert (result.tokens, result.bytes) == (count, size)
    assert result.nats_per_token == pytest.approx(nats / count, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert result.accuracy == pytest.approx(right / count)


def test_the_whole_is_what_its_parts_hold(tiny: LlamaForCausalLM) -> None:
    """Catches a total that weighs a small part like a large one."""
    parts = {"prose": batches(0, count=3), "code": batches(1, count=1, rows=1)}
    result = examine(tiny, NextToken(), parts, token_bytes=BYTES)
    together = examine(tiny, NextToken(), [*parts["prose"], *parts["code"]], token_bytes=BYTES)
    assert set(result.slices) == {"prose", "code"}
    assert result.nats_per_token == pytest.approx(together.nats_per_token, rel=1e-12)
    assert result.bits_per_byte == pytest.approx(together.bits_per_byte, rel=1e-12)
    assert result.accuracy == pytest.approx(together.accuracy)
    assert result.tokens == together.tokens
    assert result.slices["code"] == examine(tiny, NextToken(), parts["code"], token_bytes=BYTES)
    assert together.slices == {}


def test_again_is_the_same_and_leaves_no_trace(tiny: LlamaForCausalLM) -> None:
    """Catches dropout during measurement, a changed mode, and numbers that drift from call to call."""
    tiny.train()
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    ledger = Ledger()
    first = examine(tiny, NextToken(), batches(0), token_bytes=BYTES, ledger=ledger)
    assert first == examine(tiny, NextToken(), batches(0), token_bytes=BYTES)
    assert tiny.training
    tiny.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items())
    assert ledger.purposes["evaluate"].tokens == first.tokens


def test_no_bytes_no_bits(tiny: LlamaForCausalLM) -> None:
    """Catches a division by zero, or bits per byte of something that has no bytes."""
    assert examine(tiny, NextToken(), batches(0)).bits_per_byte is None


def test_a_folder_is_its_model(folder: Path, tiny: LlamaForCausalLM) -> None:
    """Catches a folder that is opened in another precision or with new weights."""
    assert examine(folder, NextToken(), batches(0)) == examine(tiny, NextToken(), batches(0))
    assert examine(str(folder), NextToken(), batches(0)).tokens == 48


def test_refusals_come_before_the_work(tiny: LlamaForCausalLM) -> None:
    """Catches an index error deep in an embedding, and a mean over nothing."""
    with pytest.raises(DataError, match="no held-out text"):
        examine(tiny, NextToken(), [])
    with pytest.raises(DataError, match="'code' of the held-out text is empty"):
        examine(tiny, NextToken(), {"prose": batches(0), "code": []})
    with pytest.raises(ConfigError, match="tokens that the model does not know"):
        examine(tiny, NextToken(), [{"tokens": torch.tensor([[1, 2, 9]])}])


def test_parts_by_metadata(tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches documents under the wrong name, windows that overlap, and small parts that vanish."""
    documents = [
        Document("abcdefg" * 2, {"source": "x"}),
        Document("ggg", {"source": "x"}),
        Document("abc" * 4, {"source": "y"}),
        Document("bcd" * 3, {"kind": "z"}),
        Document("a", {"source": "tiny"}),
    ]
    parts = batches_by(documents, tokenizer, batch_size=2, seq_length=5, limit_tokens=100)
    assert list(parts) == ["x", "y", "other"]
    tokens = [*tokenizer("abcdefg" * 2)["input_ids"], 0, *tokenizer("ggg")["input_ids"], 0]
    assert torch.cat([batch["tokens"] for batch in parts["x"]]).tolist() == [tokens[0:6], tokens[5:11], tokens[10:16]]
    assert [len(batch["tokens"]) for batch in parts["x"]] == [2, 1]
    assert (
        sum(
            len(batch["tokens"])
            for batch in batches_by(documents, tokenizer, batch_size=9, seq_length=5, limit_tokens=11)["x"]
        )
        == 2
    )
    assert list(batches_by(documents, tokenizer, batch_size=2, seq_length=5, limit_tokens=100, most=1)) == [
        "x",
        "other",
    ]


def test_parts_that_cannot_be_made(tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches an empty table of slices without a word why."""
    documents = [Document("abc", {"source": "x"})]
    with pytest.raises(DataError, match=r"no document says its 'package'(.|\n)*found: *source"):
        batches_by(documents, tokenizer, by="package", batch_size=1, seq_length=2, limit_tokens=9)
    with pytest.raises(DataError, match="fills a window"):
        batches_by(documents, tokenizer, batch_size=1, seq_length=50, limit_tokens=99)


def config_with(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_folders_that_are_refused(folder: Path, tmp_path: Path) -> None:
    """Catches foreign code or a pickle being opened, and a traceback where the folder is just something else."""
    with pytest.raises(DataError, match="not a model"):
        load(tmp_path / "nothing")
    config_with(folder, auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(UnsafeFile, match="brings its own code"):
        load(folder)
    config_with(folder, auto_map=None)
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"]}))
    with pytest.raises(DataError, match="does not say which model"):
        load(folder)
    config_with(folder, architectures=["LlamaForCausalLM"], quantization_config={"quant_method": "gptq"})
    with pytest.raises(UnsupportedModel, match="compressed in a form"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="holds no weights"):
        load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsafeFile, match="pickle"):
        load(folder)
    with pytest.raises(DataError, match="holds no tokenizer"):
        load_tokenizer(tmp_path / "nothing")

"""MiniLM: the student's last self-attention relates tokens as the teacher's does, whatever their widths and depths.

Source: Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
Transformers", NeurIPS 2020, arXiv:2002.10957, Eq. 5 to 8. Heads joined and cut anew: Wang et al., "MiniLMv2", Findings
of ACL 2021, arXiv:2012.15828.
Implements: for head a of one block, with the model's own mask on the columns,
    AT_a = softmax(Q_a K_a^T / sqrt(d_k)),  VR_a = softmax(V_a V_a^T / sqrt(d_v)),
    loss = mean over heads and counted rows t of KL(AT_teacher[a, t] || AT_student[a, t]) + the same for VR.
    Q and K are what the attention gets, after positions; each model divides by the root of its own head size (AT by
    whatever factor it scores with). Key-value heads count for each query head that they serve. No logits, no hidden
    states. With `relation_heads`, Q, K and V are each joined over heads, cut into so many, and related to themselves.
Deviations: none. The text is read as it is, without hidden tokens. Left out: dropout of 0.1 (the student's own
    configuration decides), and the assistant between very unequal models, which is this stage twice.
Use when: a small general model is wanted that is trained on afterwards, and its heads are as many as the teacher's (or
    `relation_heads` divides both widths). Cost: the teacher up to the block that teaches, the student without its
    last product, feed-forward and head.
Relations: `kd` needs equal vocabularies and no equal heads, and trains the head too. `teacher_block` other than the
    last is the choice that MiniLMv2 studies.
Limits: one stack, equal causality and window, attention through transformers' interface. The student's last output
    projection and feed-forward, and its head, are not trained: train it on afterwards, or read the block before.
    Held-out text is scored by this loss. Processes that train together must look for parameters without gradients.
"""

from __future__ import annotations

from math import gcd
from typing import ClassVar, Literal, Self

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pomona.anatomy import Anatomy, AttentionCall, Place, modify_attention
from pomona.anatomy.modifiers import AttentionCalls
from pomona.anatomy.walk import SeenEnough
from pomona.distillation.lesson import DistillationConfig, Lesson
from pomona.distillation.teacher import Teacher
from pomona.engine.protocols import IGNORED, Batch, Loss, Objective
from pomona.ground.errors import ConfigError, UnsupportedModel

CHUNK_ELEMENTS = 2**24
"""Relations held at a time; more are made again on the way back."""


class MinilmConfig(DistillationConfig):
    """Copy how a block of the teacher relates tokens into the student's last block."""

    looks_inside: ClassVar[bool] = True

    method: Literal["minilm"] = "minilm"
    teacher_block: int = -1
    """The block that teaches, from 0; negative ones count from the end. Default: the last (Sec. 3.1)."""
    value_relations: bool = True
    """Copy the relations of the values too, beside the attention distributions (Sec. 3.2)."""
    relation_heads: PositiveInt | None = None
    """None: the heads as they are, which both models must have the same number of. A number: join the heads, cut them
    into so many, and relate queries to queries, keys to keys and values to values (MiniLMv2)."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.relation_heads is not None and not self.value_relations:
            raise ValueError("relation_heads relates values too: leave value_relations as it is")
        return self

    def check(self, student: Anatomy, teacher: Anatomy) -> None:
        """Heads must correspond, and tokens see the same others."""
        student.require("single_stack", method=self.method)
        teacher.require("single_stack", method=f"{self.method} (the teacher)")
        if not -len(teacher.blocks) <= self.teacher_block < len(teacher.blocks):
            raise ConfigError(
                f"{self.method}: the teacher has no block {self.teacher_block}", needs=f"0 to {len(teacher.blocks) - 1}"
            )
        own, its = student.blocks[-1].attention, teacher.blocks[self.teacher_block].attention
        if (own.causal, own.window) != (its.causal, its.window):
            raise UnsupportedModel(
                f"{self.method} cannot compare relations under different masks",
                needs=f"the teacher's: causal {its.causal}, window {its.window}",
                found=f"causal {own.causal}, window {own.window}",
                do="choose a student of the teacher's kind, or another teacher_block",
            )
        if student.vocab_size != teacher.vocab_size:
            raise UnsupportedModel(
                f"{self.method}: student and teacher must read the same tokens",
                needs=f"a vocabulary of {teacher.vocab_size}",
                found=str(student.vocab_size),
                do="give the student the teacher's tokenizer and vocab_size",
            )
        widths = [a.num_heads * a.head_dim.size for a in (own, its)]
        if self.relation_heads is None and own.num_heads != its.num_heads:
            raise UnsupportedModel(
                f"{self.method} compares head by head",
                needs=f"the teacher's {its.num_heads} attention heads",
                found=str(own.num_heads),
                do=f"set relation_heads (a divisor of {gcd(*widths)}), or give the student as many heads",
            )
        if self.relation_heads is not None and any(width % self.relation_heads for width in widths):
            raise UnsupportedModel(
                f"{self.method} cannot cut the heads into {self.relation_heads}",
                needs=f"a divisor of {widths[0]} and {widths[1]}, the widths of student and teacher",
                do=f"choose a divisor of {gcd(*widths)}",
            )

    def build(self, teacher: Teacher, task: Objective) -> Minilm:
        """The lesson."""
        return Minilm(self, teacher, task)


class Minilm(Lesson):
    """See the card of this module."""

    config: MinilmConfig

    def judge(self, scoring: Objective) -> Objective:
        """Itself: the student's head is not trained."""
        return self

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The task's inputs without corruption; every token that is no padding counts, as a row of relations."""
        made = super().prepare(batch, generator)
        text = batch["tokens"][:, : made["input_ids"].shape[1]].contiguous() if "tokens" in batch else made["input_ids"]
        padded = made.get("attention_mask")
        labels = text.clone() if padded is None else text.masked_fill(padded == 0, IGNORED)
        return {**made, "input_ids": text, "labels": labels}

    def ask(self, teacher: Anatomy, batch: Batch) -> AttentionCall:
        """Queries, keys and values of the block that teaches."""
        return self._call(teacher, self.config.teacher_block, batch)

    def learn(self, body: Anatomy, batch: Batch, said: AttentionCall) -> Loss:
        """Nats summed over rows, averaged over heads."""
        counted = batch["labels"] != IGNORED
        total = relation_loss(
            self._call(body, -1, batch),
            said,
            counted,
            values=self.config.value_relations,
            heads=self.config.relation_heads,
        )
        return Loss(total, counted.sum())

    def _call(self, body: Anatomy, index: int, batch: Batch) -> AttentionCall:
        """What the attention of a block is given. Nothing after it is computed."""
        block = body.blocks[index]
        place = Place(block.kind, block.index, cross=False)
        taps = AttentionCalls(where=lambda at: at == place, last=place)
        inputs = self.task.inputs(body, batch)
        try:
            with modify_attention(body, [taps]):
                body.hidden(**inputs)
        except SeenEnough:
            pass
        return taps.calls[place][0]


def relation_loss(
    student: AttentionCall, teacher: AttentionCall, counted_BT: Tensor, *, values: bool = True, heads: int | None = None
) -> Tensor:
    """KL(teacher || student) of relations, Eq. 5 and 7: averaged over heads, summed over the counted rows.

    Args:
        student, teacher: of equal batch and length; gradient flows into the student's tensors alone.
        counted_BT: bool, rows that count.
        values: relate values too.
        heads: None, or the number of heads that queries, keys and values are cut into.
    Returns:
        Scalar float32, nats; 0 where both relate alike.
    """
    rows = max(1, CHUNK_ELEMENTS // (student.batch * student.heads * student.keys))
    parts = [slice(start, min(start + rows, student.queries)) for start in range(0, student.queries, rows)]
    total = torch.zeros((), dtype=torch.float32, device=counted_BT.device)
    for part in parts:
        if len(parts) > 1:
            made = checkpoint(_of_rows, student, teacher, counted_BT, part, values, heads, use_reentrant=False)
        else:
            made = _of_rows(student, teacher, counted_BT, part, values, heads)
        total = total + made
    return total


def _of_rows(
    student: AttentionCall, teacher: AttentionCall, counted_BT: Tensor, rows: slice, values: bool, heads: int | None
) -> Tensor:
    """The loss of some rows."""
    with torch.no_grad():
        wanted = relations(teacher, rows, values=values, heads=heads)
    total = counted_BT.new_zeros((), dtype=torch.float32)
    for own, its in zip(relations(student, rows, values=values, heads=heads), wanted, strict=True):
        if own.shape[1] != its.shape[1]:  # key-value heads, unequal in number: one for each query head
            own, its = (x.repeat_interleave(student.heads // x.shape[1], 1) for x in (own, its))
        p = its.exp()
        divergence_BNT = torch.where(p > 0, p * (its - own), 0.0).sum(-1)
        total = total + (divergence_BNT.mean(1) * counted_BT[:, rows]).sum()
    return total


def relations(call: AttentionCall, rows: slice, *, values: bool = True, heads: int | None = None) -> list[Tensor]:
    """Log-probabilities (B, N, rows, S) by which tokens relate, for some rows: AT and VR, or Q-Q, K-K and V-V.

    Relations of values have as many heads as there are keys and values, unless `heads` says otherwise.
    """
    if heads is not None:
        groups = call.heads // call.key.shape[1]
        joined = (call.query, *(x.repeat_interleave(groups, 1) for x in (call.key, call.value)))
        return [_related(_recut(x, heads), call, rows) for x in joined]
    attention = torch.log_softmax(call.scores(rows), -1)
    return [attention, _related(call.value, call, rows)] if values else [attention]


def _recut(x_BNTH: Tensor, heads: int) -> Tensor:
    """(B, heads, T, N * H / heads): the features of all heads, cut anew."""
    batch, _, length, _ = x_BNTH.shape
    return x_BNTH.transpose(1, 2).reshape(batch, length, heads, -1).transpose(1, 2)


def _related(x_BNTH: Tensor, call: AttentionCall, rows: slice) -> Tensor:
    """log softmax(X X^T / sqrt(H)) under the mask of the call, float32 or wider."""
    scores = x_BNTH[:, :, rows] @ x_BNTH.transpose(2, 3) * x_BNTH.shape[-1] ** -0.5
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    seen = call.seen_by(rows)
    if seen is not None:
        if seen.shape[1] not in (1, scores.shape[1]):  # a mask for each query head is that of their key-value head
            seen = seen[:, :: seen.shape[1] // scores.shape[1]]
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    return torch.log_softmax(scores, -1)

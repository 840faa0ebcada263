"""Teacher Intervention: in the first steps of quantization-aware training, blocks get the teacher's attention signals.

Source: Kim et al., "Teacher Intervention: Improving Convergence of Quantization Aware Training for Ultra-Low Precision
Transformers", EACL 2023, arXiv:2302.11812, Sec. 3; and the authors' code. Quantizers: see `distillation.ternary`.
Implements: the student is a copy of the teacher with ternary weights and 8-bit activations: what enters linear maps,
    queries, keys, values and probabilities. In step 1 (s = `intervention_steps`) the attention of every block is
    replaced by the teacher's on the same batch: what the output projection gives (OI) in [0, s/6), the contexts before
    it (CI) in [s/6, s/3), the attention maps (MI) in [s/3, s). Queries and keys, with OI and CI values too, then read
    inputs without gradients. Step 2 begins a new optimizer and schedule without intervention. Loss in both:
    KL(teacher || student) of logits + mean squared errors of hidden states (embeddings and every block), of scores
    before the softmax (those <= -100 as 0), and of states after attention; each summed over blocks.
Deviations: KL for soft cross-entropy: the same but for the teacher's entropy, which is constant. After pre-norm
    attention the state is the residual stream that the next norm reads; in parallel blocks it is what attention adds.
    A token table that the head shares stays whole.
Use when: weights of 2 bits are wanted and the errors of the first blocks drown the others. Cost: the teacher's pass,
    and attention written out.
Relations: with `intervention_steps` 0 it is distillation as TernaryBERT does it. `quantize` rounds without training.
Limits: one stack of dense blocks; attention through transformers' interface, without sinks. The range of activations
    is that of a micro-batch. The folder that is saved holds weights that are exactly -a, 0 or a, in a dense format;
    whoever loads it computes with whole activations. Held-out text is scored with both quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from pomona.anatomy import (
    Anatomy,
    AttentionCall,
    Block,
    Modifier,
    modify_attention,
    replace_outputs,
    tap_branch,
    tap_inputs,
    tap_stream,
)
from pomona.anatomy.attention_call import Effect
from pomona.distillation.lesson import DistillationConfig, Lesson, require_same_outputs
from pomona.distillation.predictions import soft_loss
from pomona.distillation.teacher import Teacher
from pomona.distillation.ternary import fake_rounded, made_ternary, run_ternary, ternary
from pomona.engine.protocols import IGNORED, Batch, Loss, Objective
from pomona.ground.errors import UnsupportedModel

Mode = Literal["output", "context", "map"]
HIDDEN_SCORE = -100.0
"""Scores at or below it are hidden keys, which no loss compares."""


class TeacherInterventionConfig(DistillationConfig):
    """Train a copy of the teacher with ternary weights, its attention replaced by the teacher's at first."""

    copies_teacher: ClassVar[bool] = True
    looks_inside: ClassVar[bool] = True
    rows_are_independent: ClassVar[bool] = False
    exactly: ClassVar[dict[str, Any]] = {"weights": "whole", "activation_bits": None}

    method: Literal["teacher-intervention"] = "teacher-intervention"
    intervention_steps: NonNegativeInt = 60
    """Steps with intervention (the paper's; 120 for models of 4 blocks). The rest of the run is without."""
    order: Literal["gradual", "inverted", "random", "output", "context", "map"] = "gradual"
    """`gradual`: outputs, contexts, maps. `inverted`: maps, contexts, outputs, a third each. `random`: one of them at
    each step. A name: that one alone."""
    weights: Literal["ternary", "whole"] = "ternary"
    """What the student's maps are."""
    activation_bits: int | None = Field(default=8, ge=2, le=16)
    """Bits of activations; None leaves them whole."""
    clip: PositiveFloat | None = 2.5
    """Activations beyond it are cut off, weights beyond it get no gradient; None: neither."""

    def check(self, student: Anatomy, teacher: Anatomy) -> None:
        """The student must have the teacher's blocks, and these dense feed-forwards."""
        student.require("single_stack", "dense_ffn", method=self.method)
        require_same_outputs(self.method, student, teacher)
        own, its = ([(b.attention.num_heads, b.attention.head_dim.size) for b in x.blocks] for x in (student, teacher))
        if own != its or student.hidden_size != teacher.hidden_size:
            raise UnsupportedModel(
                f"{self.method} puts the teacher's signals in the place of the student's",
                needs="a student with the teacher's blocks, heads and hidden size",
                found=f"{len(own)} blocks of {student.hidden_size} features, and {len(its)} of {teacher.hidden_size}",
                do="leave out `model` and `from`: the student is a copy of the teacher then",
            )

    def build(self, teacher: Teacher, task: Objective) -> TeacherIntervention:
        """The lesson."""
        return TeacherIntervention(self, teacher, task)


def mode_at(step: int, steps: int, order: str) -> Mode | None:
    """What is replaced at a step, counted from 0; None after `steps`.

    Example:
        >>> [mode_at(step, 12, "gradual") for step in (0, 1, 2, 3, 4, 11, 12)]
        ['output', 'output', 'context', 'context', 'map', 'map', None]
    """
    if step >= steps:
        return None
    if order == "gradual":
        return "output" if 6 * step < steps else "context" if 3 * step < steps else "map"
    if order == "inverted":
        return "map" if 3 * step < steps else "context" if 3 * step < 2 * steps else "output"
    if order == "random":
        names: tuple[Mode, ...] = ("output", "context", "map")
        return names[int(torch.randint(3, (), generator=torch.Generator().manual_seed(step)))]
    return order  # type: ignore[return-value]


@dataclass(eq=False)
class Signals:
    """What flows through a model on one batch: by block, and of the residual stream by place."""

    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    stream: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[int, Tensor] = field(default_factory=dict)
    maps: dict[int, Tensor] = field(default_factory=dict)
    contexts: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    states: dict[int, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class _Attention(Modifier):
    """Attention written out, noted, with rounded operands and with the teacher's maps or contexts where asked for."""

    noted: Signals
    round: Callable[[Tensor], Tensor]
    instead: Signals | None = None
    mode: Mode | None = None
    effects: ClassVar[frozenset[Effect]] = frozenset({"kernel"})

    def modify(self, call: AttentionCall) -> None:
        call.compute_with(self._compute)

    def _compute(self, call: AttentionCall) -> Tensor:
        if call.sinks is not None:
            raise UnsupportedModel("teacher-intervention knows no sinks of attention", do="choose a model without")
        index, whole, groups = call.place.index, slice(0, call.queries), call.heads // call.key.shape[1]
        call.query, call.key = self.round(call.query), self.round(call.key)
        scores = call.scores(whole)
        own = torch.softmax(scores, -1)
        self.noted.scores[index], self.noted.maps[index] = scores, own
        used = self.instead.maps[index] if self.instead is not None and self.mode == "map" else own
        used = self.round(functional.dropout(used, call.dropout, training=call.dropout > 0))
        value = self.round(call.value).repeat_interleave(groups, 1)
        context = used.to(value.dtype) @ value
        self.noted.contexts[index] = context
        replaced = self.instead is not None and self.mode == "context"
        return self.instead.contexts[index].to(context.dtype) if replaced and self.instead is not None else context


class TeacherIntervention(Lesson):
    """See the card of this module."""

    config: TeacherInterventionConfig

    def restarts(self, steps: int) -> tuple[int, ...]:
        """Step 2 begins anew."""
        return (self.config.intervention_steps,) if 0 < self.config.intervention_steps < steps else ()

    def judge(self, scoring: Objective) -> Objective:
        """The same, of the quantized student."""
        return _Judge(self, scoring)

    def ask(self, teacher: Anatomy, batch: Batch) -> Signals:
        """Everything that the student may be given or is compared with."""
        return self._observed(teacher, batch, _Attention(Signals(), lambda x: x), lambda run: run())

    def learn(self, body: Anatomy, batch: Batch, said: Signals) -> Loss:
        """The mean of each part, times the number of targets."""
        step = int(batch["step"][0]) if "step" in batch else self.config.intervention_steps
        mode = mode_at(step, self.config.intervention_steps, self.config.order)
        own = self._student(body, batch, said, mode)
        targets = (batch["labels"] != IGNORED).sum()
        parts = distances(own, said)
        total = torch.stack(list(parts.values())).sum() * targets
        return Loss(total, targets, parts={name: (part * targets).detach() for name, part in parts.items()})

    def quantized(self, body: Anatomy, run: Callable[[], Any], *, attention: bool = True) -> Any:
        """`run()` with quantized maps, what enters them rounded, and rounded operands of attention.

        Args:
            attention: round within attention too; a run that writes it out does so itself.
        """
        config = self.config
        with ExitStack() as taps:
            if config.activation_bits is not None:
                taps.enter_context(rounded_inputs(body, self._round))
                if attention:
                    taps.enter_context(modify_attention(body, [_Attention(Signals(), self._round)]))
            return run_ternary(body, run, config.clip) if config.weights == "ternary" else run()

    def finish_(self, body: Anatomy) -> dict[str, Any]:
        """Write the ternary weights into the student."""
        if self.config.weights == "whole":
            return {}
        for weight, rows in made_ternary(body):
            weight.write_(ternary(weight.read(), rows=rows))
        count = sum(weight.numel() for weight, _ in made_ternary(body))
        scales = sum(weight.shape[0] if rows else 1 for weight, rows in made_ternary(body))
        bits = self.config.activation_bits
        return {"ternary": {"weights": count, "packed_bytes": count // 4 + 4 * scales, "activation_bits": bits}}

    def _round(self, x: Tensor) -> Tensor:
        return fake_rounded(x, bits=self.config.activation_bits, clip=self.config.clip)

    def _student(self, body: Anatomy, batch: Batch, said: Signals, mode: Mode | None) -> Signals:
        with ExitStack() as taps:
            if mode is not None:
                taps.enter_context(without_gradients(body, values=mode != "map"))
            attention = _Attention(Signals(), self._round, said, mode)
            return self._observed(body, batch, attention, lambda run: self.quantized(body, run, attention=False))

    def _observed(
        self, body: Anatomy, batch: Batch, attention: _Attention, within: Callable[[Callable[[], Tensor]], Tensor]
    ) -> Signals:
        """Run a model, as `within` runs it, and note its signals; the teacher's outputs replace its own where asked."""
        noted, instead = attention.noted, attention.instead if attention.mode == "output" else None
        with ExitStack() as taps:
            taps.enter_context(modify_attention(body, [attention]))
            taps.enter_context(tap_stream(body.stacks[0], noted.stream.__setitem__))
            for index, block in enumerate(body.blocks):
                change = _noting(noted.outputs, index, None if instead is None else instead.outputs)
                taps.enter_context(replace_outputs(block.attention.output, change))
                taps.enter_context(tap_state(block, lambda state, index=index: noted.states.__setitem__(index, state)))  # type: ignore[misc]
            noted.logits = within(lambda: self.predictions(body, batch))
        return noted


class _Judge:
    """An objective that scores the quantized student."""

    def __init__(self, lesson: TeacherIntervention, scoring: Objective) -> None:
        self.lesson, self.scoring = lesson, scoring
        self.name, self.is_likelihood = scoring.name, scoring.is_likelihood

    def check(self, body: Anatomy) -> None:
        self.scoring.check(body)

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        return self.scoring.prepare(batch, generator)

    def __call__(self, body: Anatomy, batch: Batch) -> Loss:
        loss: Loss = self.lesson.quantized(body, lambda: self.scoring(body, batch))
        return loss


def distances(student: Signals, teacher: Signals) -> dict[str, Tensor]:
    """The parts of the loss, each a mean (of logits over targets) and summed over blocks; 0 where both are equal."""

    def apart(own: dict[int, Tensor], its: dict[int, Tensor]) -> Tensor:
        return torch.stack([functional.mse_loss(own[index].float(), its[index].float()) for index in own]).sum()

    def visible(scores: dict[int, Tensor]) -> dict[int, Tensor]:
        return {index: torch.where(score <= HIDDEN_SCORE, 0.0, score) for index, score in scores.items()}

    targets = student.logits.flatten(0, -2).shape[0]
    return {
        "logits": soft_loss(student.logits, teacher.logits) / max(targets, 1),
        "hidden": apart(student.stream, teacher.stream),
        "scores": apart(visible(student.scores), visible(teacher.scores)),
        "states": apart(student.states, teacher.states),
    }


def _noting(outputs: dict[int, Tensor], index: int, instead: dict[int, Tensor] | None) -> Callable[[Tensor], Tensor]:
    def change(hidden: Tensor) -> Tensor:
        outputs[index] = hidden
        return hidden if instead is None else instead[index].to(hidden.dtype).view_as(hidden)

    return change


@contextmanager
def tap_state(block: Block, callback: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the block, call `callback` with the state after attention: see the card's deviations."""
    if block.placement == "post" and block.norm_attention is not None:
        handle = block.norm_attention.module.register_forward_hook(lambda module, args, output: callback(output))
    elif block.placement in ("pre", "sandwich") and block.norm_ffn is not None:
        handle = block.norm_ffn.module.register_forward_pre_hook(lambda module, args: callback(args[0]))
    else:
        output = block.placement == "output"
        tap = tap_inputs(block.ffn.up, callback) if output else tap_branch(block, "attention", callback)
        with tap:
            yield
        return
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def rounded_inputs(body: Anatomy, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, every module that holds maps of the blocks gets `change` of its input.

    What several modules read is changed once, so that they still read the same tensor.
    """
    last: list[tuple[Tensor, Tensor]] = []

    def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
        if not last or last[0][0] is not args[0]:
            last[:] = [(args[0], change(args[0]))]
        return (last[0][1], *args[1:])

    owners = {id(weight.owner): weight.owner for weight in body.weights()}
    handles = [owner.register_forward_pre_hook(hook) for owner in owners.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without_gradients(body: Anatomy, *, values: bool) -> Iterator[None]:
    """Within the block, queries and keys, and values if asked, are computed from inputs without gradients.

    Where one module computes all three, the part of the values is computed twice: with and without.
    """
    handles = []
    with ExitStack():
        for block in body.blocks:
            attention = block.attention
            kept = attention.value
            cut = [attention.query, attention.key, *([kept] if values else [])]
            fused = not values and kept.owner is attention.query.owner
            if fused:
                handles.append(kept.owner.register_forward_hook(_only(kept.rows)))
                continue
            owners = {id(weight.owner): weight.owner for weight in cut}
            handles += [owner.register_forward_pre_hook(_detached) for owner in owners.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _detached(module: nn.Module, args: tuple[Any, ...]) -> Any:
    return (args[0].detach(), *args[1:])


def _only(rows: slice | Tensor | None) -> Callable[..., Tensor]:
    """A hook after which only some outputs of a module pass gradients on to its input."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        through = torch.zeros(output.shape[-1], dtype=torch.bool, device=output.device)
        through[rows] = True
        return torch.where(through, output, module.forward(args[0].detach()))

    return hook

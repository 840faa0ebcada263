"""The training loop, readable in one sitting. The same code runs on one process, DDP and FSDP2 (through accelerate).

A step is a pure function of the state and of (seed, step, rank): the stream computes its batch, corruption and
dropout draw from generators seeded by the step. That is why a resumed run continues bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from transformers import PreTrainedModel

from pomona import anatomy
from pomona.anatomy import Anatomy
from pomona.engine.auxiliary import AuxiliaryObjective, accompany, restore, tensors_of
from pomona.engine.checkpoint import Checkpoints
from pomona.engine.curvature import curvature_pass
from pomona.engine.ema import Ema
from pomona.engine.evaluate import Quality, autocast, bits_per_byte, count_bytes, evaluate
from pomona.engine.flops import measure_flops, trainable
from pomona.engine.guards import GuardConfig, Guards
from pomona.engine.ledger import Ledger
from pomona.engine.metrics import MetricsLog
from pomona.engine.protocols import Batch, Loss, Objective, Schedule, count_targets, size_of
from pomona.engine.seeds import mix
from pomona.engine.signals import StopRequest
from pomona.engine.speed import compiled_blocks, fast_products, should_compile, training_dtype
from pomona.ground.config import Config
from pomona.ground.console import console, progress_bar, say, warn
from pomona.ground.errors import ConfigError, TrainingDiverged, TrainingStopped
from pomona.ground.files import write_json
from pomona.ground.machine import keep_freed_memory
from pomona.ground.ranks import from_main, join


class Stream(Protocol):
    """Where batches come from: a pure function of (step, rank)."""

    def batch(self, step: int, rank: int = 0, *, micro_batches: int = 1) -> list[Batch]: ...


class FitConfig(Config):
    """How a training run is carried out. Nothing here says what is learnt."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Format of matrix products. `auto`: bfloat16 where the hardware multiplies it fast. Weights stay float32."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch.compile of the blocks. `auto`: measured, when the run is long enough for it to pay."""
    micro_batches: PositiveInt = 1
    """Parts that each process cuts its share of a step's batch into; more need less memory, the result is the same."""
    clip: PositiveFloat | None = 1.0
    """Largest norm of the gradient of the mean loss; None leaves gradients as they are."""
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Decay per step of an exponential mean of the weights, which is then what is evaluated and kept."""
    evaluate_every: PositiveInt | None = None
    """Steps between evaluations on the held-out batches; None evaluates at the end only."""
    checkpoint_minutes: PositiveFloat = 5.0
    """Minutes between checkpoints. When they are written changes nothing in the result."""
    keep_checkpoints: PositiveInt = 2
    """How many of the newest checkpoints are kept."""
    log_every: PositiveInt = 10
    """Steps between records in metrics.jsonl."""
    guards: GuardConfig = GuardConfig()
    """When a step is skipped, and when the run stops."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers by accelerate's names, such as tensorboard or wandb; they must be installed."""
    seed: NonNegativeInt = 0
    """Of dropout and corruption. The stream has a seed of its own."""


@dataclass
class Training:
    """What `fit` returns: the ledger, the held-out quality at the end (None without validation), the records."""

    ledger: Ledger
    quality: Quality | None
    records: list[dict[str, Any]]


def fit(
    model: PreTrainedModel,
    objective: Objective,
    stream: Stream,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    steps: int,
    config: FitConfig | None = None,
    folder: Path | None = None,
    validation: Sequence[Batch] = (),
    watched: Mapping[str, Sequence[Batch]] | None = None,
    scoring: Objective | None = None,
    token_bytes: Tensor | None = None,
    stop_at_loss: float | None = None,
    keep_state_after: int | None = None,
    restarts: Collection[int] = (),
    title: str = "training",
) -> Training:
    """Train `model` in place for `steps` optimizer steps.

    Gradients are those of the mean over all counted targets of a step, over every micro-batch and process, however
    the batch is cut. When `folder` holds checkpoints of the same run, training continues after the newest intact
    one, bit for bit on one machine.

    Args:
        model: any model with an anatomy; its parameters are float32.
        objective: corruption and loss. One with an `identity` (plain values, as the hash of a teacher) is continued
            with the same one only.
        stream: batches by (step, rank).
        optimizer: over the model's parameters; each group's `lr` is its peak rate. One that asks for curvature
            (`protocols.UsesCurvature`) is given it after the steps that it names.
        schedule: share of the peak rate by step.
        steps: optimizer steps in all, those before a resume included.
        config: how to run; see `FitConfig`.
        folder: for checkpoints and metrics.jsonl; None keeps everything in memory.
        validation: held-out batches before `prepare`.
        watched: further held-out batches by name (what a model must not forget), scored beside those of `validation`.
        scoring: what held-out batches are scored by; default: the objective.
        token_bytes: (V,) UTF-8 bytes of each token, for bits per byte.
        stop_at_loss: end as soon as an evaluation is at or below this many nats per token.
        keep_state_after: the complete state after so many steps is also written to `folder/kept` and stays there.
        restarts: steps, counted from 0, before which the optimizer forgets its moments.
        title: shown at the progress bar.

    Raises:
        ConfigError: the folder holds a longer run or one with an objective of another identity, or the objective
            cannot give the curvature asked for.
        TrainingDiverged: see `GuardConfig`.
        TrainingStopped: SIGINT or SIGTERM; a checkpoint was written first.
    """
    config = config or FitConfig()
    keep_freed_memory()
    join()
    accelerator = Accelerator(log_with=list(config.trackers) or None, project_dir=str(folder) if folder else None)
    device, main = accelerator.device, accelerator.is_main_process
    model.to(device)
    if isinstance(objective, AuxiliaryObjective):
        objective.to(device)
    body = anatomy.of(model)
    accompany(body, objective)
    dtype = training_dtype(config.precision)
    ledger, guards = Ledger(), Guards(config.guards)
    ema = Ema(model, config.ema) if config.ema else None
    identity = getattr(objective, "identity", None)
    checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints) if folder else None
    for group in optimizer.param_groups:
        group.setdefault("peak_lr", group["lr"])

    def load(step: int) -> list[Batch]:
        raw = stream.batch(step, accelerator.process_index, micro_batches=config.micro_batches)
        draws = torch.Generator().manual_seed(mix(config.seed, step, accelerator.process_index))
        return [objective.prepare(micro, draws) for micro in raw]

    done = 0
    if checkpoints and (newest := from_main(checkpoints.newest)):
        done, values, extra = checkpoints.load(newest, model, optimizer)
        ledger = Ledger.from_dict(values["ledger"])
        guards.restore(values["guards"])
        if values.get("identity") != identity:
            raise ConfigError(
                f"{folder} holds a run with another objective",
                needs=str(values.get("identity")),
                found=str(identity),
                do="choose another folder, or remove the checkpoints",
            )
        if ema:
            ema.restore(extra)
        restore(objective, extra)
        say(f"  [dim]continuing {title} after step {done} of {steps}[/]")
    if done > steps:
        raise ConfigError(
            f"{folder} holds a run of {done} steps", found=f"{steps} asked for", do="choose another folder"
        )
    kept = Checkpoints(folder / "kept", keep=1) if folder and main and keep_state_after is not None else None
    log = MetricsLog(folder / "metrics.jsonl" if folder and main else None, resume_at=done)
    if folder and main:
        write_json(folder / "length.json", {"steps": steps})  # for who watches the run
    if config.trackers:
        accelerator.init_trackers(title)

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(fast_products(body, device))
        model.train()
        if isinstance(objective, AuxiliaryObjective):
            objective.train()
        first = load(min(done, steps - 1))
        flops = _FlopsByLength(body, objective)
        passes = (steps - done) * config.micro_batches
        own = folder if main else None
        compiling = should_compile(config.compile, body, objective, first[0], passes=passes, dtype=dtype, folder=own)
        compiling = from_main(lambda: compiling)
        flops.of(first[0])
        stack.enter_context(compiled_blocks(body, compiling))
        step_module, prepared_optimizer = accelerator.prepare(_Step(body, objective, dtype), optimizer)
        parameters = trainable(model, objective)
        curvature = curvature_pass(optimizer, accelerator, step_module, body, objective, flops.of, config.seed)
        loader = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="pomona-batches"))
        stopping = stack.enter_context(StopRequest())
        bar = stack.enter_context(progress_bar("{task.fields[state]}"))
        task = bar.add_task(title, total=steps, completed=done, state="")

        quality: Quality | None = None
        saved_at = time.monotonic()
        upcoming = loader.submit(load, done)
        if kept and done == keep_state_after == 0:
            kept.save(done, model, optimizer, {}, tensors_of(objective))
        while done < steps:
            start = time.perf_counter()
            micro_batches = upcoming.result()
            if done + 1 < steps:
                upcoming = loader.submit(load, done + 1)
            if done in restarts:
                optimizer.state.clear()
            factor = schedule(done)
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            torch.manual_seed(mix(config.seed, done, accelerator.process_index))

            nats, parts = _accumulate(accelerator, step_module, micro_batches, device)
            targets = sum(count_targets(micro) for micro in micro_batches)
            nats, targets, stop = _over_ranks(accelerator, nats, targets, stopping.received is not None)
            norm = _scale_gradients(parameters, accelerator.num_processes / max(targets, 1), config.clip)
            try:
                skipped = guards.admits(done + 1, nats / max(targets, 1), norm)
            except TrainingDiverged as diverged:
                diverged.spent = ledger.to_dict()
                raise
            if skipped is None:
                prepared_optimizer.step()
                if ema:
                    ema.update()
            else:
                ledger.skipped_steps += 1
                warn(f"step {done + 1} skipped: {skipped}")
            prepared_optimizer.zero_grad(set_to_none=True)
            done += 1
            ledger.steps = done

            tokens = sum(math.prod(size_of(micro)) for micro in micro_batches) * accelerator.num_processes
            step_flops = sum(flops.of(micro) for micro in micro_batches) * accelerator.num_processes
            seconds = time.perf_counter() - start
            ledger.charge("train", flops=step_flops, seconds=seconds, tokens=tokens)
            auxiliary = getattr(optimizer, "auxiliary_flops", None)
            if auxiliary is not None:
                ledger.charge("optimizer", flops=auxiliary())

            if done % config.log_every == 0 or done in (1, steps):
                byte_count = sum(
                    count_bytes(micro["labels"], token_bytes) for micro in micro_batches if objective.is_likelihood
                )
                record = _record(ledger, nats / max(targets, 1), optimizer, norm, tokens / seconds)
                record["bits_per_byte"] = bits_per_byte(nats / accelerator.num_processes, byte_count)
                statistics = getattr(optimizer, "statistics", None)
                record |= statistics() if statistics is not None else {}
                if parts:  # of this process
                    counted = max(1, sum(count_targets(micro) for micro in micro_batches))
                    record["parts"] = {name: value / counted for name, value in parts.items()}
                log.append(record)
                accelerator.log({k: v for k, v in record.items() if isinstance(v, int | float)}, step=done)
                bar.update(task, state=_state(record))
            bar.update(task, completed=done)
            if curvature is not None and skipped is None and done % curvature.request.every == 0:
                ledger.charge("curvature", **curvature(done, micro_batches))

            due = config.evaluate_every is not None and done % config.evaluate_every == 0
            if validation and (due or done == steps):
                with ema.applied() if ema else ExitStack():
                    judge = scoring or objective
                    quality, *others = (
                        evaluate(body, judge, batches, token_bytes=token_bytes, dtype=dtype, ledger=ledger)
                        for batches in (validation, *(watched or {}).values())
                    )
                record = {**_position(ledger), "validation": quality.to_dict()}
                if watched:
                    record["watched"] = {name: each.to_dict() for name, each in zip(watched, others, strict=True)}
                log.append(record)
                if not console().is_terminal or done == steps:
                    say(_line(title, done, steps, quality, tokens / seconds))
                if stop_at_loss is not None and quality.nats_per_token <= stop_at_loss:
                    break
            if kept and done == keep_state_after:
                kept.save(done, model, optimizer, {}, tensors_of(objective))
            if checkpoints and main and done < steps:
                late = time.monotonic() - saved_at > 60 * config.checkpoint_minutes
                if late or stop:
                    values = {"ledger": ledger.to_dict(), "guards": guards.state(), "identity": identity}
                    extra = {**(ema.tensors() if ema else {}), **tensors_of(objective)}
                    checkpoints.save(done, model, optimizer, values, extra)
                    saved_at = time.monotonic()
            if stop and done < steps:
                error = TrainingStopped(
                    f"{title} stopped after step {done} of {steps}",
                    do="repeat the same command to continue from there"
                    if checkpoints
                    else "give the run a folder to make it resumable",
                )
                error.exit_code = stopping.exit_code
                raise error
        if ema:
            ema.copy_to_model()
    if config.trackers:
        accelerator.end_training()
    return Training(ledger, quality, log.records)


class _Step(nn.Module):
    """Model and objective as one module, so that DDP and FSDP see the whole forward pass."""

    def __init__(self, body: Anatomy, objective: Objective, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model = body.model
        self.objective = objective
        self._body, self._dtype = body, dtype

    def forward(self, batch: Batch) -> Loss:
        with autocast(batch["labels"].device, self._dtype):
            return self.objective(self._body, batch)


class _FlopsByLength:
    """FLOPs of a micro-batch, measured once for each length of sequences and of their labels."""

    def __init__(self, body: Anatomy, objective: Objective) -> None:
        self._body, self._objective = body, objective
        self._known: dict[tuple[int, ...], float] = {}

    def of(self, batch: Batch) -> float:
        rows, length = size_of(batch)
        lengths = (length, *batch["labels"].shape[1:])
        if lengths not in self._known:
            self._known[lengths] = measure_flops(self._body, self._objective, batch)
        return self._known[lengths] * rows


def _accumulate(
    accelerator: Accelerator,
    step_module: nn.Module,
    micro_batches: Sequence[Batch],
    device: torch.device,
) -> tuple[float, dict[str, float]]:
    """Gradients of the summed loss of all micro-batches; returns that sum in nats, and its named parts."""
    nats = 0.0
    parts: dict[str, float] = {}
    for index, micro in enumerate(micro_batches):
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in micro.items()}
        last = index == len(micro_batches) - 1
        with ExitStack() if last else accelerator.no_sync(step_module):
            loss = step_module(batch)
            accelerator.backward(loss.total)
        nats += float(loss.total.detach())
        for name, value in loss.parts.items():
            parts[name] = parts.get(name, 0.0) + float(value)
    return nats, parts


def _over_ranks(accelerator: Accelerator, nats: float, targets: int, stop: bool) -> tuple[float, int, bool]:
    """Loss and targets of the whole batch, and whether any process was asked to stop: all leave after one step."""
    if accelerator.num_processes == 1:
        return nats, targets, stop
    sums = torch.tensor([nats, float(targets), float(stop)], dtype=torch.float64, device=accelerator.device)
    sums = accelerator.reduce(sums, reduction="sum")
    return float(sums[0]), int(sums[1]), bool(sums[2])


def _scale_gradients(parameters: Sequence[nn.Parameter], scale: float, clip: float | None) -> float:
    """Turn summed gradients into those of the mean and clip them, in one pass. Returns the norm before clipping."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(grads)) * scale
    if clip is not None and norm > clip:
        scale *= clip / norm
    torch._foreach_mul_(grads, scale)
    return norm


def _position(ledger: Ledger) -> dict[str, Any]:
    return {"step": ledger.steps, "tokens": ledger.tokens, "flops": ledger.flops, "seconds": round(ledger.seconds, 4)}


def _record(ledger: Ledger, loss: float, optimizer: torch.optim.Optimizer, norm: float, rate: float) -> dict[str, Any]:
    return {
        **_position(ledger),
        "loss": loss,
        "learning_rate": optimizer.param_groups[0]["lr"],
        "grad_norm": norm,
        "tokens_per_second": round(rate, 1),
    }


def _state(record: dict[str, Any]) -> str:
    bits = record["bits_per_byte"]
    shown = f"loss {record['loss']:.3f}" + (f" · {bits:.3f} bits/byte" if bits is not None else "")
    return f"{shown} · {record['tokens_per_second'] / 1000:.1f}k tokens/s"


def _line(title: str, done: int, steps: int, quality: Quality, rate: float) -> str:
    bits = f" ({quality.bits_per_byte:.3f} bits/byte)" if quality.bits_per_byte is not None else ""
    return (
        f"  {title}: step {done}/{steps}, held-out {quality.nats_per_token:.3f} nats/token{bits}, "
        f"{rate / 1000:.1f}k tokens/s"
    )

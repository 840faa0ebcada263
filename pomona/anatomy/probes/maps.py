"""Probes of single modules: linear maps and norms compute what the declaration says."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pomona.anatomy.body import Anatomy
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.probes.check import EQUAL, Check, difference, equal
from pomona.anatomy.probes.lab import attentions_of, normalize, outputs_of
from pomona.anatomy.taps import tap_inputs, tap_outputs
from pomona.anatomy.weight import Norm


def probe_weights(body: Anatomy) -> Iterator[Check]:
    """A linear map, read in canonical orientation, gives its module's outputs for its module's inputs."""
    inputs = example_inputs(body)
    for weight in body.weights():
        if weight.routed:
            continue  # the maps of experts are no modules; `probe_experts` tries them
        seen: list[Tensor] = []
        with tap_inputs(weight, seen.append), tap_outputs(weight, seen.append):
            outputs_of(body, inputs)
        given, got = torch.cat(seen[::2]).detach(), torch.cat(seen[1::2]).detach()
        found = nn.functional.linear(given, weight.read(), weight.bias_read())
        yield equal("weights", f"{weight.name} ({weight.role})", found, got)


def probe_head_norms(body: Anatomy) -> Iterator[Check]:
    """The norm of queries gets the queries, and the norm of keys the keys."""
    inputs = example_inputs(body)
    for _, attention, _ in attentions_of(body):
        for weight, norm in ((attention.query, attention.query_norm), (attention.key, attention.key_norm)):
            if norm is None:
                continue
            seen: list[Tensor] = []
            handle = norm.module.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
            with tap_outputs(weight, seen.append):
                outputs_of(body, inputs)
            handle.remove()
            # Heads and positions may have changed places in between.
            made, read = (x.detach().flatten().sort().values for x in seen)
            yield equal("head norms", f"{norm.gain.name} after {weight.name}", read, made)


def probe_norms(body: Anatomy) -> Iterator[Check]:
    """A norm computes what its kind, gain, bias, offset and epsilon say."""
    norms = [norm for block in body.blocks for norm in block.norms()]
    for stack in body.stacks:
        norms += [norm for norm in (stack.embedding_norm, stack.final_norm) if norm is not None]
    norms += [part for part in body.around.values() if isinstance(part, Norm)]
    for norm in norms:
        # Small numbers, so that epsilon matters.
        x = 1e-2 * torch.randn(5, norm.gain.shape[0], dtype=torch.float64) + 3e-3
        with torch.no_grad():
            found = norm.module(x)
        error = difference(found, normalize(norm, x))
        # Root mean squares are often taken in float32 whatever the dtype.
        yield Check("norms", norm.gain.name, error < EQUAL, f"difference {error:.1e}")

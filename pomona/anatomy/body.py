"""Anatomy: one view of the parts of a transformer. Everything else in pomona sees models through it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pomona.anatomy import capabilities, counts
from pomona.anatomy.bind import Binder, uncovered
from pomona.anatomy.block import Attention, Block, Stack
from pomona.anatomy.declaration import Pool, Shape
from pomona.anatomy.registry import known_shapes, shape_named, shapes_for, unknown
from pomona.anatomy.sizes import record_of
from pomona.anatomy.space import Space
from pomona.anatomy.surroundings import Fast
from pomona.anatomy.weight import Norm, Weight
from pomona.ground.errors import UnsupportedModel

if TYPE_CHECKING:
    from pomona.anatomy.edits import Edit


def of(model: Any, shape: str | Shape | None = None) -> Anatomy:
    """The anatomy of a transformers model. It is a view: cheap to make, and edits of the model show in it.

    Args:
        model: a `PreTrainedModel`, with or without a head.
        shape: a declaration or its name, for a model whose type is not in the registry.
    Raises:
        UnsupportedModel: no declaration is known, or the model does not fit it, or its blocks hold parameters that are
            not declared; says how to register one.
    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        ...                      num_key_value_heads=2, vocab_size=96)
        >>> body = of(LlamaForCausalLM(config))
        >>> len(body.blocks), body.blocks[0].attention.query.shape
        (2, (32, 32))
    """
    body = bound(model, shape)
    inside = tuple(f"{stack.path}." for stack in body.stacks)
    left = [name for name in body.unseen if name.startswith(inside)]
    if left:
        raise UnsupportedModel(
            f"the blocks of {type(model).__name__} hold more than the shape {body.shape.name!r} declares",
            needs="a declared part for every parameter of a block, or edits would tear it apart",
            found=f"{len(left)} without one: {', '.join(left[:3])}{', ...' if left[3:] else ''}",
            do="declare its own shape (anatomy.draft(model) proposes one) and call anatomy.register(shape), or "
            "merge what was added, as adapters",
        )
    return body


def bound(model: Any, shape: str | Shape | None = None) -> Anatomy:
    """`of` for experiments on a declaration: it may leave out parameters of the blocks."""
    config = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(config, "model_type"):
        raise UnsupportedModel(
            f"{type(model).__name__} has no anatomy",
            needs="a transformers PreTrainedModel with its config",
            found=f"{type(model).__module__}.{type(model).__qualname__}",
            do="load the model with transformers; unwrap it first if it is wrapped (compiled, DDP, PEFT)",
        )
    if isinstance(shape, str):
        shape = shape_named(shape)
    found = [shape] if shape is not None else shapes_for(model)
    if not found:
        raise unknown(type(model).__name__, str(getattr(config, "model_type", "")), _fitting(model))
    if found[0].beside and len(found) > 1:
        names = " or ".join(repr(each.name) for each in found)
        raise UnsupportedModel(
            f"{type(model).__name__} has several towers",
            needs="one tower, each has an anatomy of its own",
            found=names,
            do=f"use anatomy.of(model, shape={found[0].name!r}), or anatomy.towers(model) for all of them",
        )
    return Anatomy(model, found[0])


def towers(model: Any) -> dict[str, Anatomy]:
    """The anatomies of a model with several towers (an image and a text encoder), by name of the shape.

    Edits of one tower reach the parts of the whole model that read it. A model with one tower gives one anatomy.

    Raises:
        UnsupportedModel: no declaration is known, or the model does not fit it.
    """
    shapes = shapes_for(model)
    first = of(model, shapes[0] if shapes else None)
    return {body.shape.name: body for body in (first, *first.beside())}


def _seen_by(model: Any, shape: Shape) -> set[str]:
    """Names of the parameters of the tower that a shape describes, and of those that read it."""
    binder = Binder(model, shape)
    inside = {f"{binder.body_path}.{name}" for name, _ in binder.find.body.named_parameters()}
    return inside | {part.name for part in binder.bind().parts()}


def _fitting(model: nn.Module) -> list[str]:
    """Names of the shapes whose declaration finds every part of the model and leaves no parameter over."""
    names = []
    for shape in known_shapes().values():
        try:
            body = Anatomy(model, shape)
        except (UnsupportedModel, ValueError, ZeroDivisionError):
            continue
        if not body.unseen:
            names.append(shape.name)
    return names


class Anatomy:
    """The parts of one model.

    Attributes:
        model: the transformers model itself.
        shape: the declaration that was applied.
        base: the module that returns hidden states.
        stacks: one, or encoder and decoder; `blocks` are those of all stacks in order.
        embedding: token table (vocabulary, residual), or None for a model that starts from something else.
        embedding_scale: factor of the embeddings. It is rounded to their dtype first: in bfloat16, 55.43 acts as 55.5.
        around: what else lies around the blocks, by role: "patch", "class_token", "pooler", "embedding_projection", ...
            An "output_projection" is computed by the body, after its last norm.
        head: linear map (vocabulary, residual) or (label, ...) that makes logits, or None.
        transform_parts: weights between hidden states and head (BERT's transform), empty for most.
        own_tokens: number of positions that the stem adds of its own, before those made of the input (class token).
        unseen: names of parameters that the declaration does not cover.
        elsewhere: names of parameters of the model's other towers.
        fast: the declared hindrances to permuting a space that this model has.
        companions: what is trained along with the model without being part of it, such as the generator of an
            objective: anatomies, or plain modules.
    """

    def __init__(self, model: Any, shape: Shape) -> None:
        self.model, self.shape = model, shape
        self.companions: list[Anatomy | nn.Module] = []
        self.refresh()

    def refresh(self) -> None:
        """Find the parts again, after modules were replaced."""
        binder = Binder(self.model, self.shape)
        self._find = binder.find
        bound = binder.bind()
        self._bound = bound
        self.stacks: list[Stack] = bound.stacks
        self.blocks: list[Block] = [block for stack in bound.stacks for block in stack.blocks]
        self.embedding: Weight | None = bound.embedding
        self.around: dict[str, Weight | Norm] = bound.around
        self.own_tokens: int = bound.own_tokens
        self.fast: list[Fast] = [one for one in self.shape.fast if binder.find.has(binder.body_path, one.path)]
        self.embedding_scale: float = bound.embedding_scale
        self._head = bound.head
        self.head: Weight | None = None if bound.head is None else bound.head.weight
        self.transform_parts: list[Weight] = [] if bound.head is None else bound.head.transform_parts
        self.residual: Space = bound.residual
        self.vocabulary: Space | None = bound.vocabulary
        self.base: nn.Module = binder.find.body
        self._separate_body = self.base is not self.model or self.head is None
        missing = uncovered(self.model, list(self.parts()))
        others = {name for shape in self._others() for name in _seen_by(self.model, shape)}
        self.unseen: list[str] = [name for name in missing if name not in others]
        self.elsewhere: list[str] = [name for name in missing if name in others]
        self.capabilities: frozenset[str] = capabilities.capabilities_of(self)

    def __repr__(self) -> str:
        return (
            f"Anatomy({type(self.model).__name__}, shape={self.shape.name!r}, blocks={len(self.blocks)}, "
            f"hidden_size={self.hidden_size}, parameters={self.parameter_count():,})"
        )

    # ---- parts

    @property
    def loads_with(self) -> Literal["transformers", "pomona"]:
        """What loads the saved folder: any transformers, or `pomona.anatomy.load` (no code is stored or run)."""
        return "transformers" if record_of(self, self._find.recorded) is None else "pomona"

    @property
    def config(self) -> Any:
        """The model's configuration; of a model with several towers, this tower's."""
        return self._find.config

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    def beside(self) -> list[Anatomy]:
        """The model's other towers."""
        return [Anatomy(self.model, shape) for shape in self._others()]

    def _others(self) -> list[Shape]:
        shapes = [shape_named(name) for name in self.shape.beside]
        return [shape for shape in shapes if shape.body is not None and self._find.find("", shape.body) is not None]

    @property
    def positions(self) -> Weight | None:
        """Table of learned positions of the last stack, or None."""
        return self.stacks[-1].positions

    @property
    def final_norm(self) -> Norm | None:
        """Norm after the last block of the last stack, or None."""
        return self.stacks[-1].final_norm

    @property
    def head_norm(self) -> Norm | None:
        """Norm whose outputs the head reads, or None. After post-norm blocks it is that of the last feed-forward."""
        norm = None if self._head is None else self._head.norm
        last = self.blocks[-1]
        return norm or self.final_norm or (last.norm_ffn if last.placement == "post" else None)

    @property
    def head_scales(self) -> tuple[float, float]:
        """Factors of what the head reads and of the logits."""
        return (1.0, 1.0) if self._head is None else (self._head.scale, self._head.logits_scale)

    @property
    def has_transform(self) -> bool:
        """True when something other than one linear map lies between hidden states and logits."""
        return self._head is not None and not self._head.plain

    def parts(self) -> Iterator[Weight]:
        """Every weight, bias, gain and table that the declaration sees; tied ones under each of their roles."""
        yield from self._bound.parts()

    def weights(self) -> list[Weight]:
        """The linear maps inside the blocks, in the order of the computation; those of each expert singly."""
        return [weight for block in self.blocks for weight in block.weights()]

    def attentions(self) -> list[Attention]:
        """Every attention, those to the encoder included, in the order of the computation."""
        both = [(block.attention, block.cross_attention) for block in self.blocks]
        return [attention for pair in both for attention in pair if attention is not None]

    def matrices(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that hold the linear maps inside the blocks, each once, with their state-dict names."""
        found = {id(weight.parameter): (weight.name, weight.parameter) for weight in self.weights()}
        return list(found.values())

    def norm_readers(self) -> list[tuple[Norm, list[Weight]]]:
        """The norms whose outputs are read by linear maps alone, each with these maps.

        The gain of such a norm can be moved into its readers. Left out are norms that the residual stream reads, and
        the final norm where the head is tied or not a linear map.
        """
        found = [pair for block in self.blocks for pair in block.norm_readers()]
        final, head, projection = self.final_norm, self._head, self.around.get("output_projection")
        if final is not None and isinstance(projection, Weight):
            found.append((final, [projection]))
        elif final is not None and head is not None and head.transform is None and "untied_head" in self.capabilities:
            found.append((final, [head.weight]))
        encoder = self.stacks[0].final_norm
        if encoder is not None and len(self.stacks) > 1:
            crosses = [block.cross_attention for block in self.stacks[1].blocks]
            found.append((encoder, [w for cross in crosses if cross is not None for w in (cross.key, cross.value)]))
        return found

    @property
    def ties(self) -> list[tuple[str, ...]]:
        """Groups of state-dict names that share one parameter."""
        groups: dict[int, list[str]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            groups.setdefault(id(parameter), []).append(name)
        return [tuple(names) for names in groups.values() if len(names) > 1]

    def spaces(self) -> list[Space]:
        """Every space that an axis names, in order of appearance."""
        seen: dict[Space, None] = {}
        for part in self.parts():
            for axis in part.axes:
                for space in axis.spaces:
                    if space.parent is not None:
                        seen.setdefault(space.parent)
                    seen.setdefault(space)
        return list(seen)

    def members(self, space: Space) -> list[tuple[Weight, int]]:
        """The weights with an axis on `space`, and which axis: its dependency group. Tied weights come once."""
        found: dict[tuple[object, int], tuple[Weight, int]] = {}
        for part in self.parts():
            for dim, axis in enumerate(part.axes):
                if axis.has(space):
                    found.setdefault((part.key, dim), (part, dim))
        return list(found.values())

    # ---- numbers

    @property
    def hidden_size(self) -> int:
        return self.residual.size

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary; 0 for a model that does not start from tokens."""
        return 0 if self.vocabulary is None else self.vocabulary.size

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the model was made for, or None when nothing limits it."""
        name = self.shape.fields.max_positions
        value = self._find.field(name, None)
        rows = [s.positions.shape[0] - s.first_position for s in self.stacks if s.positions is not None]
        return None if value is None else min([int(value), *rows])

    def parameter_count(self, *, trainable: bool = False, non_embedding: bool = False) -> int:
        """Number of parameters, tied ones once; see `counts.parameter_count`."""
        return counts.parameter_count(self, trainable=trainable, non_embedding=non_embedding)

    def flops_per_token(self, seq_length: int, training: bool = True, target_length: int | None = None) -> float:
        """FLOPs of the matrix products per token; see `counts.flops_per_token`."""
        return counts.flops_per_token(self, seq_length, training=training, target_length=target_length)

    def kv_cache_bytes(self, tokens: int, batch: int = 1, dtype: torch.dtype | None = None) -> int:
        """Bytes of the key-value cache; see `counts.kv_cache_bytes`."""
        return counts.kv_cache_bytes(self, tokens, batch, dtype)

    # ---- the model's own computation

    def hidden(self, **inputs: Any) -> Tensor:
        """What the head reads: (B, T, D) hidden states after the final norm, by the model's own forward.

        Args:
            inputs: as for the model (input_ids, attention_mask, position_ids, inputs_embeds, ...), without labels.
        """
        if not self._separate_body:
            return self._encoder_decoder_hidden(**inputs)
        takes = inspect.signature(self.base.forward).parameters
        if self.stacks[-1].causal and "use_cache" in takes:
            inputs.setdefault("use_cache", False)
        if self._others():
            inputs = {name: value for name, value in inputs.items() if name in takes}
        output: Tensor = self.base(**inputs)[0]
        return output

    def _encoder_decoder_hidden(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        encoded = self.model.get_encoder()(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds
        )[0]
        output: Tensor = self.model.get_decoder()(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=encoded,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        )[0]
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) logits of (..., D) hidden states: everything that the model does after its body.

        A classifier that pools its tokens needs all of a sequence: (B, labels) of (B, T, D).

        Raises:
            UnsupportedModel: the model has no head, or one that reads more than hidden states.
        """
        head = self._head
        if head is None or head.pool is None:
            self.require("head", method="logits")
        assert head is not None
        return head.logits(hidden)

    @property
    def logits_added(self) -> Tensor | None:
        """A buffer (1, V) that is added to the logits, or None."""
        return None if self._head is None else self._head.added

    @property
    def pool(self) -> Pool | None:
        """What the head reads of a sequence, see `HeadShape`; None without a head, or when only the model knows."""
        return None if self._head is None else self._head.pool

    def head_weight(self) -> tuple[Tensor, Tensor | None] | None:
        """(weight (V, D), bias (V,) or None), differentiable, when `logits` is exactly that linear map; else None."""
        if self._head is None or self.head is None or self.has_transform:
            return None
        weight: Tensor = self.head.parameter
        return (weight.T if self.head.transposed else weight), self._head.bias

    # ---- demands and edits

    def require(self, *names: str, method: str) -> None:
        """Refuse the model by `UnsupportedModel` unless it has every named capability."""
        capabilities.require(self, names, method)

    @contextmanager
    def edit(self) -> Iterator[Edit]:
        """Change sizes and values together, all or nothing, when the block ends; see `pomona.anatomy.edits`."""
        from pomona.anatomy.edits import Edit

        edit = Edit(self)
        yield edit
        edit.apply()

    def restack_(self, order: Sequence[int], stack: str | None = None) -> None:
        """Rebuild a stack from copies of its blocks; see `pomona.anatomy.restack.restack_`."""
        from pomona.anatomy.restack import restack_

        restack_(self, order, stack)

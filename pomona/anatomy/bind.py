"""Apply a declaration to a model: find every part, work out its axes, refuse what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from pomona.anatomy.block import Attention, Block, FeedForward, Stack
from pomona.anatomy.declaration import AttentionShape, BlockShape, Fused, NormKind, Shape, StackShape, Storage
from pomona.anatomy.space import Axis, Space
from pomona.anatomy.weight import Norm, Weight
from pomona.ground.errors import UnsupportedModel


@dataclass(frozen=True)
class Bound:
    """What a declaration says about one model."""

    stacks: list[Stack]
    embedding: Weight
    head: Weight | None
    head_module: nn.Module | None
    transform: nn.Module | None
    transform_parts: list[Weight]
    head_scale: float | None
    residual: Space
    vocabulary: Space


class Binder:
    """Binds one declaration to one model. Raises `UnsupportedModel` when a part is absent or has another size."""

    def __init__(self, model: Any, shape: Shape) -> None:
        self.model, self.shape, self.config = model, shape, model.config
        self.body: nn.Module = model.base_model
        self.body_path = next(name for name, module in model.named_modules() if module is self.body)
        self.hidden_size = int(self.field(shape.fields.hidden_size))
        self.residual = Space("residual", self.hidden_size)
        self.vocabulary = Space("vocabulary", int(self.field(shape.fields.vocabulary)))

    def bind(self) -> Bound:
        embedding = self._table("embedding", self.body_path, self.shape.embedding, self.vocabulary)
        stacks = [self._stack(stack) for stack in self.shape.stacks]
        head = transform = scale = None
        head_module: nn.Module | None = None
        transform_parts: list[Weight] = []
        declared = self.shape.head
        if declared is not None and self._find("", declared.path, required=False) is not None:
            _, head_module = self._need("", declared.path)
            head = self._linear("head", "", declared.path, (self.vocabulary,), (self.residual,))
            if declared.transform is not None:
                _, transform = self._need("", declared.transform)
            if declared.transform_linear is not None:
                dense = self._linear(
                    "head.transform", "", declared.transform_linear, (self.residual,), (self.residual,)
                )
                transform_parts += [dense] if dense.bias is None else [dense, dense.bias]
            if declared.transform_norm is not None:
                norm = self._norm("head.norm", "", declared.transform_norm, self.residual, "layer")
                transform_parts += norm.weights() if norm else []
            if declared.scaled_if is not None and self.field(declared.scaled_if, False):
                scale = self.hidden_size**-0.5
        return Bound(
            stacks=stacks,
            embedding=embedding,
            head=head,
            head_module=head_module,
            transform=transform,
            transform_parts=transform_parts,
            head_scale=scale,
            residual=self.residual,
            vocabulary=self.vocabulary,
        )

    def field(self, name: str | None, default: Any = ...) -> Any:
        """A configuration value; absent or None gives `default`, and without a default an error."""
        value = None if name is None else getattr(self.config, name, None)
        if value is None:
            if default is ...:
                raise self._refusal(f"the configuration field {name!r}", "none")
            return default
        return value

    def _stack(self, declared: StackShape) -> Stack:
        path, container = self._need(self.body_path, declared.blocks)
        if not isinstance(container, nn.ModuleList):
            raise self._refusal(f"a list of blocks at {path}", type(container).__name__)
        causal = declared.causal if isinstance(declared.causal, bool) else bool(self.field(declared.causal, False))
        final = declared.final_norm
        return Stack(
            name=declared.name,
            path=path,
            container=container,
            blocks=[
                self._block(declared, index, f"{path}.{index}", module, causal)
                for index, module in enumerate(container)
            ],
            causal=causal,
            positions=None
            if declared.positions is None
            else self._table("positions", self.body_path, declared.positions, "position"),
            tables=[self._table(name, self.body_path, at, name) for at, name in declared.tables],
            embedding_norm=self._norm(
                "embedding_norm", self.body_path, declared.embedding_norm, self.residual, declared.block.norm
            ),
            final_norm=self._norm("final_norm", self.body_path, final, self.residual, declared.block.norm),
            returns=declared.block.returns,
            carries=declared.block.carries,
        )

    def _block(self, stack: StackShape, index: int, path: str, module: nn.Module, causal: bool) -> Block:
        declared = stack.block
        window = self._window(index)
        attention = self._attention("attention", path, declared.attention, declared, stack.name, causal, window)
        cross = None
        if declared.cross_attention is not None:
            cross = self._attention(
                "cross_attention", path, declared.cross_attention, declared, stack.name, False, None
            )
        up_module = self._need(path, _path(declared.ffn.up))[1]
        features = Space("feed_forward", _outputs(up_module), path)
        residual, hidden = (self.residual,), (features,)
        gate = declared.ffn.gate
        gated = gate is not None and self._find(path, _path(gate), required=False) is not None
        norm_attention = self._norm("norm_attention", path, declared.norm_attention, self.residual, declared.norm)
        norm_ffn = self._norm("norm_ffn", path, declared.norm_ffn, self.residual, declared.norm)
        assert norm_attention is not None and norm_ffn is not None
        return Block(
            index=index,
            kind=stack.name,
            path=path,
            module=module,
            placement=declared.placement,
            attention=attention,
            ffn=FeedForward(
                up=self._linear("ffn.up", path, declared.ffn.up, hidden, residual),
                gate=self._linear("ffn.gate", path, gate, hidden, residual) if gated and gate else None,
                down=self._linear("ffn.down", path, declared.ffn.down, residual, hidden),
                features=features,
            ),
            norm_attention=norm_attention,
            norm_ffn=norm_ffn,
            cross_attention=cross,
            norm_cross=self._norm("norm_cross", path, declared.norm_cross, self.residual, declared.norm),
        )

    def _attention(
        self,
        role: str,
        path: str,
        declared: AttentionShape,
        block: BlockShape,
        stack: str,
        causal: bool,
        window: int | None,
    ) -> Attention:
        fields = self.shape.fields
        heads_all = int(self.field(fields.heads))
        width = int(self.field(fields.head_dim, self.hidden_size // heads_all))
        # One table of score biases serves all blocks of a stack, so their heads keep step with it.
        scope = f"{path}.{role}" if declared.bias_table is None or role != "attention" else f"{stack}.{role}"
        _, output_module = self._need(path, declared.output)
        num_heads = _inputs(output_module) // width
        if isinstance(declared.key, Fused):
            ratio = int(self.field(fields.kv_heads, heads_all)) / heads_all
            num_kv = round(num_heads * ratio)
        else:
            num_kv = _outputs(self._need(path, declared.key)[1]) // width
        if num_kv < 1 or num_heads % num_kv:
            raise self._refusal(
                f"query heads in equal groups per key-value head at {path}", f"{num_heads} and {num_kv}"
            )
        grouped = num_kv != num_heads
        kv_heads = Space("kv_head" if grouped else "head", num_kv, scope)
        heads = Space("head", num_heads, scope, parent=kv_heads) if grouped else kv_heads
        head_dim = Space("head_dim", width, f"{path}.{role}")
        value_dim = Space("value_dim", width, f"{path}.{role}")
        sizes = {"query": num_heads * width, "key": num_kv * width, "value": num_kv * width}
        residual = (self.residual,)
        owner = self._need(path, _path(declared.query).rsplit(".", 1)[0])[1]

        def norm(name: str, at: str | None) -> Norm | None:
            return self._norm(f"{role}.{name}", path, at, head_dim, block.norm)

        table = declared.bias_table
        return Attention(
            query=self._linear(f"{role}.query", path, declared.query, (heads, head_dim), residual, sizes),
            key=self._linear(f"{role}.key", path, declared.key, (kv_heads, head_dim), residual, sizes),
            value=self._linear(f"{role}.value", path, declared.value, (kv_heads, value_dim), residual, sizes),
            output=self._linear(f"{role}.output", path, declared.output, residual, (heads, value_dim)),
            query_norm=norm("query_norm", declared.query_norm),
            key_norm=norm("key_norm", declared.key_norm),
            bias_table=self._table(f"{role}.bias_table", path, table, "bucket", (heads,))
            if table is not None and self._find(path, table, required=False) is not None
            else None,
            module=owner,
            causal=causal,
            window=window,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
        )

    def _window(self, index: int) -> int | None:
        window = self.field(self.shape.fields.window, None)
        kinds = self.field("layer_types", None)
        if window is None or (kinds is not None and index < len(kinds) and kinds[index] != "sliding_attention"):
            return None
        return int(window)

    def _linear(
        self,
        role: str,
        base: str,
        storage: Storage,
        outputs: tuple[Space, ...],
        inputs: tuple[Space, ...],
        sizes: dict[str, int] | None = None,
    ) -> Weight:
        path, module = self._need(base, _path(storage))
        rows = None
        if isinstance(storage, Fused):
            assert sizes is not None
            before = storage.parts[: storage.parts.index(storage.part)]
            start = sum(sizes[part] for part in before)
            rows = slice(start, start + sizes[storage.part])
        out = Axis(outputs)
        bias = None
        if getattr(module, "bias", None) is not None:
            bias = Weight(
                role=f"{role}.bias",
                name=_join(path, "bias"),
                owner=module,
                attribute="bias",
                axes=(out,),
                kind="vector",
                rows=rows,
            )
        return Weight(
            role=role,
            name=_join(path, "weight"),
            owner=module,
            attribute="weight",
            axes=(out, Axis(inputs)),
            kind="linear",
            transposed=isinstance(module, Conv1D),
            rows=rows,
            bias=bias,
        )

    def _table(
        self, role: str, base: str, at: str, rows: Space | str, features: tuple[Space, ...] | None = None
    ) -> Weight:
        path, module = self._need(base, at)
        if isinstance(rows, str):
            rows = Space(rows, int(_weight(module).shape[0]), path)
        axes = (Axis((rows,)), Axis(features or (self.residual,)))
        return Weight(role=role, name=_join(path, "weight"), owner=module, attribute="weight", axes=axes, kind="table")

    def _norm(self, role: str, base: str, at: str | None, over: Space, kind: NormKind) -> Norm | None:
        if at is None or (self._find(base, at, required=False) is None and at.endswith("?")):
            return None
        path, module = self._need(base, at)
        axes = (Axis((over,)),)

        def vector(name: str, attribute: str) -> Weight:
            return Weight(
                role=f"{role}.{name}",
                name=_join(path, attribute),
                owner=module,
                attribute=attribute,
                axes=axes,
                kind="vector",
            )

        epsilon = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
        if epsilon is None:
            raise self._refusal(f"a norm with an epsilon at {path}", type(module).__name__)
        has_bias = getattr(module, "bias", None) is not None
        norm_kind: Literal["rms", "layer"] = kind
        return Norm(
            kind=norm_kind,
            module=module,
            gain=vector("gain", "weight"),
            bias=vector("bias", "bias") if has_bias else None,
            epsilon=float(epsilon),
        )

    def _find(self, base: str, paths: str, required: bool) -> tuple[str, nn.Module] | None:
        root = self.model.get_submodule(base)
        for at in paths.removesuffix("?").split("|"):
            try:
                return _join(base, at), root.get_submodule(at)
            except AttributeError:
                continue
        if required:
            raise self._refusal(f"a module at {_join(base, paths)}", "none")
        return None

    def _need(self, base: str, paths: str) -> tuple[str, nn.Module]:
        found = self._find(base, paths, required=True)
        assert found is not None
        return found

    def _refusal(self, needs: str, found: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"{type(self.model).__name__} does not fit the shape {self.shape.name!r}",
            needs=needs,
            found=found,
            do="declare its own shape and call anatomy.register(shape)",
        )


def uncovered(model: nn.Module, parts: Sequence[Weight]) -> list[str]:
    """Names of the parameters that no part views."""
    covered = {id(part.parameter) for part in parts}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in covered]


def _path(storage: Storage) -> str:
    return storage.path if isinstance(storage, Fused) else storage


def _join(base: str, path: str) -> str:
    return f"{base}.{path}" if base and path else base or path


def _weight(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _outputs(module: nn.Module) -> int:
    return int(_weight(module).shape[1 if isinstance(module, Conv1D) else 0])


def _inputs(module: nn.Module) -> int:
    return int(_weight(module).shape[0 if isinstance(module, Conv1D) else 1])

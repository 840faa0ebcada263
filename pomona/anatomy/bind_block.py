"""Apply a declaration to one block: its attention, its feed-forward or experts, its norms."""

from __future__ import annotations

from torch import nn

from pomona.anatomy.bind_latent import bind_latent
from pomona.anatomy.block import Attention, Block, FeedForward
from pomona.anatomy.declaration import (
    AttentionShape,
    BlockShape,
    ByFlag,
    ExpertsShape,
    FeedForwardShape,
    Fused,
    Placement,
    StackShape,
)
from pomona.anatomy.find import Finder, inputs_of, outputs_of, storage_path, tensor_of
from pomona.anatomy.space import Axis, Space
from pomona.anatomy.weight import Norm, Weight


class BlockBinder:
    """Binds the blocks of one stack. Raises `UnsupportedModel` when a part is absent or has another size."""

    def __init__(self, finder: Finder, stack: StackShape, residual: Space, causal: bool) -> None:
        self.finder, self.stack, self.residual, self.causal = finder, stack, residual, causal
        self.declared: BlockShape = stack.block
        self.fields = stack.fields or finder.shape.fields
        self.placement = self._placement()
        self.branch_scale = finder.factor(self.declared.branch_scale)

    def bind(self, index: int, path: str, module: nn.Module) -> Block:
        declared, finder = self.declared, self.finder
        norm_attention = self._norm("norm_attention", path, declared.norm_attention)
        norm_ffn = self._norm("norm_ffn", path, declared.norm_ffn)
        if norm_ffn is not None and norm_attention is not None and norm_ffn.module is norm_attention.module:
            norm_ffn = norm_attention
        cross = None
        if declared.cross_attention is not None:
            cross = self._attention("cross_attention", path, declared.cross_attention, index, causal=False)
        return Block(
            index=index,
            kind=self.stack.name,
            path=path,
            module=module,
            placement=self.placement,
            branch_scale=self.branch_scale,
            attention=self._attention("attention", path, declared.attention, index, causal=self.causal),
            ffn=self._feed_forward(path),
            norm_attention=norm_attention,
            norm_ffn=norm_ffn,
            scale_attention=finder.vector("scale_attention", path, declared.scale_attention, Axis((self.residual,))),
            scale_ffn=finder.vector("scale_ffn", path, declared.scale_ffn, Axis((self.residual,))),
            norm_attention_out=self._norm("norm_attention_out", path, declared.norm_attention_out),
            norm_ffn_out=self._norm("norm_ffn_out", path, declared.norm_ffn_out),
            cross_attention=cross,
            norm_cross=self._norm("norm_cross", path, declared.norm_cross),
        )

    def _placement(self) -> Placement:
        """The placement, refused when the declared norms are not those that it needs."""
        declared = self.declared.placement
        if isinstance(declared, ByFlag):
            declared = declared.yes if self.finder.field(declared.flag, False) else declared.no
        block = self.declared
        before = block.norm_attention is not None and block.norm_ffn is not None
        after = block.norm_attention_out is not None and block.norm_ffn_out is not None
        fits = {"output": not before and after, "sandwich": before and after}.get(declared, before and not after)
        if not fits:
            raise self.finder.refusal(f"the norms of the placement {declared!r}", "others declared")
        return declared

    def _norm(self, role: str, path: str, at: str | None, over: Axis | None = None) -> Norm | None:
        declared = self.declared
        axis = over or Axis((self.residual,))
        return self.finder.norm(role, path, at, axis, declared.norm, declared.norm_offset)

    # ---- attention

    def _attention(self, role: str, path: str, declared: AttentionShape, index: int, *, causal: bool) -> Attention:
        find, fields = self.finder, self.fields
        if declared.key_value_latent is not None:
            return bind_latent(find, fields, declared, f"{path}.{role}", path, self.residual, causal)
        self_attention = role == "attention"
        heads_all = int(find.field(fields.heads))
        usual = int(find.field(fields.head_dim, int(find.field(fields.hidden_size)) // heads_all))
        width = find.size("head_dim", f"{path}.{role}", usual)
        # One table of score biases serves all blocks of a stack, so their heads keep step with it.
        shared = (declared.bias_table or self.stack.bias_table) is not None and self_attention
        scope = f"{self.stack.name if shared else path}.{role}"
        num_heads = inputs_of(find.need(path, declared.output)[1]) // width
        if isinstance(declared.key, Fused):
            usual = round(num_heads * int(find.field(fields.kv_heads, heads_all)) / heads_all)
            num_kv = find.size("kv_head", scope, usual)
        else:
            num_kv = outputs_of(find.need(path, declared.key)[1]) // width
        if num_kv < 1 or num_heads % num_kv:
            raise find.refusal(f"query heads in equal groups per key-value head at {path}", f"{num_heads} and {num_kv}")
        grouped = num_kv != num_heads
        kv_heads = Space("kv_head" if grouped else "head", num_kv, scope)
        heads = Space("head", num_heads, scope, parent=kv_heads) if grouped else kv_heads
        head_dim = Space("head_dim", width, f"{path}.{role}")
        value_dim = Space("value_dim", width, f"{path}.{role}")
        sizes = {"query": num_heads * width, "key": num_kv * width, "value": num_kv * width}
        residual = (self.residual,)

        def projection(name: str, storage: str | Fused, outputs: tuple[Space, ...]) -> Weight:
            return find.linear(f"{role}.{name}", path, storage, outputs, residual, sizes, periods=num_kv)

        def optional(name: str, at: str | None) -> Weight | None:
            return None if at is None or find.find(path, at) is None else projection(name, at, (heads, head_dim))

        def norm(name: str, at: str | None, over: Space) -> Norm | None:
            found = None if at is None else find.find(path, at)
            whole = found is not None and tensor_of(found[1]).numel() == over.size * width
            return self._norm(f"{role}.{name}", path, at, Axis((over, head_dim) if whole else (head_dim,)))

        table = declared.bias_table
        scaling = find.factor(declared.scaling, width)
        if declared.scaling_by_depth is not None and find.field(declared.scaling_by_depth, False):
            scaling /= index + 1
        kinds = find.field(declared.position_kinds, None) or ()
        scaling /= (1 + len(kinds)) ** 0.5
        return Attention(
            query=projection("query", declared.query, (heads, head_dim)),
            key=projection("key", declared.key, (kv_heads, head_dim)),
            value=projection("value", declared.value, (kv_heads, value_dim)),
            output=find.linear(f"{role}.output", path, declared.output, residual, (heads, value_dim)),
            query_norm=norm("query_norm", declared.query_norm, heads),
            key_norm=norm("key_norm", declared.key_norm, kv_heads),
            query_latent=None,
            key_value_latent=None,
            bias_table=find.table(f"{role}.bias_table", path, table, "bucket", Axis((heads,)))
            if table is not None and find.find(path, table) is not None
            else None,
            position_query=optional("position_query", declared.position_query),
            position_key=optional("position_key", declared.position_key),
            position_kinds=len(kinds),
            module=find.need(path, storage_path(declared.query).rpartition(".")[0])[1],
            causal=causal,
            window=self._window(index) if self_attention else None,
            scaling=scaling,
            softcap=find.number(declared.softcap),
            rotary=self._rotary(index, width) if self_attention else 0,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
        )

    def _kind(self, index: int) -> str | None:
        """What the configuration calls the kind of attention of a block."""
        kinds = self.finder.field("layer_types", None)
        return None if kinds is None or index >= len(kinds) else str(kinds[index])

    def _window(self, index: int) -> int | None:
        window = self.finder.field(self.fields.window, None)
        if window is None or self._kind(index) not in (None, "sliding_attention"):
            return None
        return int(window) if self.causal else 2 * int(window) + 1

    def _rotary(self, index: int, width: int) -> int:
        """How many of a head's features are turned by position."""
        if self.finder.shape.positions != "rotary":
            return 0
        turned = self.finder.field(self.fields.rotary_layers, None)
        if turned is not None and index < len(turned) and not turned[index]:
            return 0
        parameters = self.finder.field("rope_parameters", {})
        parameters = parameters.get(self._kind(index), parameters)
        return int(width * parameters.get("partial_rotary_factor", 1.0))

    # ---- feed-forward

    def _feed_forward(self, path: str) -> FeedForward:
        declared = self.declared.ffn
        choices = declared if isinstance(declared, tuple) else (declared,)
        for choice in choices[:-1]:
            probe = choice.router if isinstance(choice, ExpertsShape) else storage_path(choice.up)
            if self.finder.find(path, probe) is not None:
                return self._either("ffn", path, choice)
        return self._either("ffn", path, choices[-1])

    def _either(self, role: str, path: str, declared: FeedForwardShape | ExpertsShape) -> FeedForward:
        if isinstance(declared, ExpertsShape):
            return self._experts(role, path, declared)
        return self._dense(role, path, declared)

    def _dense(self, role: str, path: str, declared: FeedForwardShape) -> FeedForward:
        find = self.finder
        down_module = find.need(path, declared.down)[1]
        width = inputs_of(down_module)
        scope = path if role == "ffn" else f"{path}.{role}"
        features = Space("feed_forward", width, scope)
        residual, hidden, sizes = (self.residual,), (features,), {"gate": width, "up": width}
        gate = declared.gate
        gated = gate is not None and find.find(path, storage_path(gate)) is not None
        return FeedForward(
            up=find.linear(f"{role}.up", path, declared.up, hidden, residual, sizes),
            gate=find.linear(f"{role}.gate", path, gate, hidden, residual, sizes) if gated and gate else None,
            down=find.linear(f"{role}.down", path, declared.down, residual, hidden),
            features=features,
            module=down_module,
        )

    def _experts(self, role: str, path: str, declared: ExpertsShape) -> FeedForward:
        find = self.finder
        experts = Space("expert", outputs_of(find.need(path, declared.router)[1]), path)
        at, _, attribute = declared.down.rpartition(".")
        width = int(getattr(find.need(path, at)[1], attribute).shape[-1])
        features = Space("feed_forward", experts.size * width, path, parent=experts)
        outer, inner, sizes = Axis((self.residual,)), Axis((features,)), {"gate": width, "up": width}
        shared = declared.shared
        if shared is not None and shared.down.endswith("?") and find.find(path, shared.down) is None:
            shared = None
        gate = declared.gate
        return FeedForward(
            up=find.expert_linear(f"{role}.up", path, declared.up, (inner, outer), experts, sizes),
            gate=None
            if gate is None
            else find.expert_linear(f"{role}.gate", path, gate, (inner, outer), experts, sizes),
            down=find.expert_linear(f"{role}.down", path, declared.down, (outer, inner), experts, sizes, beside=True),
            features=features,
            module=find.need(path, declared.module)[1],
            router=find.linear(f"{role}.router", path, declared.router, (experts,), (self.residual,)),
            experts=experts,
            active=int(find.field(declared.active)),
            shared=None if shared is None else self._dense(f"{role}.shared", path, shared),
            shared_gate=None
            if shared is None or declared.shared_gate is None
            else find.linear(f"{role}.shared_gate", path, declared.shared_gate, (), (self.residual,)),
        )

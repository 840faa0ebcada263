"""Trunk: the blocks of any model between a stem and a head of another modality.

    trunk = Trunk(model, stem=Frames(hidden_size=256, size=16), head=nn.Linear(256, 5), pool="mean")
    logits = trunk(series, observed)                   # (B, 5)
    trunk.body.restack_([0, 0, 1, 1])                  # every surgery is one of the trunk
    trunk.save("folder")
    same = Trunk.load("folder", stem=Frames(hidden_size=256, size=16), head=nn.Linear(256, 5))

A stem makes (B, T, D) of images, series, points or anything else; the trunk does with them whatever the model does with
its own embeddings. It holds the model itself, so what is done to the model (growth, pruning, adapters, quantization) is
done to the trunk. Without stem and head it is a function from embeddings to hidden states.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from pomona.anatomy.block import Stack
from pomona.anatomy.body import Anatomy, of
from pomona.anatomy.loading import load
from pomona.anatomy.taps import hidden_of
from pomona.ground.errors import ConfigError, UnsupportedModel, did_you_mean
from pomona.ground.files import atomic_folder, read_manifest
from pomona.ground.quiet import without_bars

Pooling = Literal["mean", "first", "last"]
POOLINGS = ("mean", "first", "last")
ENDS = ("stem", "head")
FORMAT = 1


class Trunk(nn.Module):
    """A stem, the blocks of a model, a head.

    Models whose own forward takes `inputs_embeds` run it: the stem stands for their table of tokens, and positions,
    token types and norms on the embedding are added as for tokens (ESM leaves them out). Other models (of images, of
    sounds) make embeddings themselves: what the stem gives enters their blocks as it is, after the norm on the
    embedding if there is one, and the stem brings positions if they are needed. Of an encoder-decoder the trunk is the
    encoder, unless it is called with inputs of the decoder. What is not used, as the table of tokens and the model's
    own head, gets no gradients.

    Args:
        model: a transformers model of a known shape, or the anatomy of one of several towers.
        stem: gives (B, T, D), or a pair with (B, T) that says which positions count; default: inputs are embeddings.
        head: gets hidden states after the final norm, (B, T, D), or (B, D) when they are pooled; default: they are the
            outputs.
        pool: what becomes of the positions that count: their mean, the first, the last; None: all are kept.
    Raises:
        UnsupportedModel: the model has no anatomy.
    """

    def __init__(
        self, model: Any, *, stem: nn.Module | None = None, head: nn.Module | None = None, pool: Pooling | None = None
    ) -> None:
        super().__init__()
        if pool is not None and pool not in POOLINGS:
            raise ConfigError(f"there is no pooling {pool!r}", where="pool", do=did_you_mean(pool, POOLINGS))
        self._body = model if isinstance(model, Anatomy) else of(model)
        self._seen = _state(self._body.model)
        self.model: nn.Module = self._body.model
        self.stem = nn.Identity() if stem is None else stem
        self.head = nn.Identity() if head is None else head
        self.pool = pool

    @property
    def body(self) -> Anatomy:
        """The anatomy of the model as it is now, also after something else than this anatomy has edited it."""
        state = _state(self.model)
        if state != self._seen:
            self._body.refresh()
            self._seen = state
        return self._body

    def forward(self, *inputs: Any, attention_mask: Tensor | None = None, **decoder: Tensor) -> Tensor:
        """What the head makes of the hidden states, differentiable.

        Args:
            inputs: what the stem takes.
            attention_mask: (B, T), 1 or True where a position counts; default: where the stem says, or everywhere.
            decoder: `decoder_inputs_embeds` or `decoder_input_ids`, and `decoder_attention_mask`; the hidden states are
                then those of the decoder.
        Raises:
            ConfigError: the stem gives another width than the model's, or more positions than it has; or a mask of
                another shape.
            UnsupportedModel: a mask for blocks that take none, or inputs of a decoder that is not there.
        """
        made = self.stem(*inputs)
        embeds, counts = made if isinstance(made, tuple) else (made, None)
        if attention_mask is None:
            attention_mask = counts
        hidden = self._hidden(embeds, attention_mask, decoder)
        if decoder:
            attention_mask = decoder.get("decoder_attention_mask")
        output: Tensor = self.head(pooled(hidden, attention_mask, self.pool))
        return output

    def _hidden(self, embeds: Tensor, mask: Tensor | None, decoder: dict[str, Tensor]) -> Tensor:
        """(B, T, D) hidden states after the final norm."""
        body = self.body
        takes_embeds = _takes(body.base, "inputs_embeds")
        _check(body, embeds, mask, takes_embeds)
        if decoder:
            body.require("encoder_decoder", method="a trunk with inputs of a decoder")
        elif len(body.stacks) > 1:
            encoded: Tensor = body.model.get_encoder()(inputs_embeds=embeds, attention_mask=mask)[0]
            return encoded
        if takes_embeds:
            return body.hidden(inputs_embeds=embeds, attention_mask=mask, **decoder)
        return _through(body, body.stacks[0], embeds, mask)

    # ---- folders

    def save(self, folder: str | Path) -> None:
        """Write the model as an ordinary folder of transformers, and beside it the weights of stem and head.

        Weights that the stem shares with the model are written twice, and are two when they are loaded.

        Raises:
            ConfigError: the folder is there already.
        """
        if Path(folder).exists():
            raise ConfigError(f"{folder} is there already", do="choose another folder, or remove it")
        facts = {"trunk": FORMAT, "shape": self.body.shape.name, "pool": self.pool}
        with atomic_folder(Path(folder), facts) as part, without_bars():
            self.body.model.save_pretrained(part)
            for name in ENDS:
                weights = {key: value.detach().cpu().clone() for key, value in getattr(self, name).state_dict().items()}
                save_file(weights, part / f"{name}.safetensors")

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        stem: nn.Module | None = None,
        head: nn.Module | None = None,
        dtype: torch.dtype | None = torch.float32,
    ) -> Trunk:
        """The trunk that was saved in a folder, in evaluation mode. Nothing in it is code.

        Args:
            stem, head: modules made as those that were saved; they get the saved weights.
            dtype: of the model's weights; None keeps what the folder says.
        Raises:
            DamagedArtefact, DataError, UnsafeFile: as of `anatomy.load`.
            ConfigError: no trunk was saved there, or stem or head are made in another way.
        """
        folder = Path(folder)
        facts = read_manifest(folder)
        if facts.get("trunk") != FORMAT:
            raise ConfigError(
                f"{folder} holds no trunk", needs=f"one of format {FORMAT}", found=str(facts.get("trunk"))
            )
        trunk = cls(of(load(folder, dtype=dtype), facts["shape"]), stem=stem, head=head, pool=facts["pool"])
        for name in ENDS:
            _fill(getattr(trunk, name), folder / f"{name}.safetensors")
        return trunk.eval()


def pooled(hidden_BTD: Tensor, mask_BT: Tensor | None, pool: Pooling | None) -> Tensor:
    """(B, D) of the positions that count, or all of (B, T, D); zeros for a sequence without any.

    Args:
        mask_BT: 1 or True where a position counts; None: everywhere.
        pool: "mean", "first", "last", or None.
    """
    if pool is None:
        return hidden_BTD
    counts = hidden_BTD.new_ones(hidden_BTD.shape[:2], dtype=torch.bool) if mask_BT is None else mask_BT.bool()
    if pool != "mean":  # leave one position that counts
        order = counts.cumsum(1) if pool == "first" else counts.flip(1).cumsum(1).flip(1)
        counts = counts & (order == 1)
    total = torch.where(counts[..., None], hidden_BTD, 0.0).sum(1)
    return total / counts.sum(1, keepdim=True).clamp(min=1)


def _check(body: Anatomy, embeds: Tensor, mask: Tensor | None, takes_embeds: bool) -> None:
    """Refuse embeddings and masks that do not fit the model."""
    width = body.hidden_size
    if takes_embeds and body.embedding is not None:
        width = body.embedding.axes[1].size  # a projection may follow
    if not isinstance(embeds, Tensor) or embeds.dim() != 3 or embeds.shape[-1] != width:
        raise ConfigError(
            "what the stem gives does not fit the trunk",
            needs=f"(batch, positions, {width})",
            found=f"{tuple(embeds.shape)}" if isinstance(embeds, Tensor) else type(embeds).__name__,
            do=f"let the stem end with a linear map to {width} features",
        )
    if mask is not None and mask.shape != embeds.shape[:2]:
        raise ConfigError(
            "the mask does not fit the embeddings",
            needs=f"(batch, positions) as they leave the stem: {tuple(embeds.shape[:2])}",
            found=f"{tuple(mask.shape)}",
        )
    table = body.stacks[0].positions
    if (
        takes_embeds
        and table is not None
        and embeds.shape[1] > (most := table.shape[0] - body.stacks[0].first_position)
    ):
        raise ConfigError(
            "the stem gives too many positions",
            needs=f"at most {most}, the rows of {table.name}",
            found=f"{embeds.shape[1]}",
            do="let the stem make fewer and larger pieces, or choose a model with more positions",
        )


def _through(body: Anatomy, stack: Stack, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Send embeddings through the blocks of a model whose forward takes none."""
    body.require("blockwise", method="a trunk")
    options: dict[str, Any] = {}
    if _takes(stack.blocks[0].module, "attention_mask"):
        given = {"config": body.config, "inputs_embeds": hidden, "attention_mask": mask}
        if stack.causal:
            options = {"attention_mask": create_causal_mask(**given, past_key_values=None), "is_causal": True}
        else:
            options = {"attention_mask": create_bidirectional_mask(**given)}
    elif mask is not None:
        raise UnsupportedModel(
            f"the blocks of {type(body.model).__name__} take no mask",
            where=stack.blocks[0].path,
            needs="blocks that can leave positions out",
            found="none",
            do="give sequences of one length without a mask, or choose another model",
        )
    if stack.embedding_norm is not None:
        hidden = stack.embedding_norm.module(hidden)
    for block in stack.blocks:
        hidden = hidden_of(block.module(hidden, **options))
    return hidden if stack.final_norm is None else stack.final_norm.module(hidden)


def _takes(module: nn.Module, name: str) -> bool:
    """Whether an argument is among those of a module's forward."""
    return name in inspect.signature(module.forward).parameters


def _state(model: nn.Module) -> list[tuple[int, torch.Size]]:
    """Which parameters a model has: other ones after every edit of sizes or of the stack."""
    return [(id(parameter), parameter.shape) for parameter in model.parameters()]


def _fill(module: nn.Module, file: Path) -> None:
    """Load weights into a module that must have exactly these."""
    saved = load_file(file)
    own = module.state_dict()
    theirs, ours = ({key: tuple(value.shape) for key, value in each.items()} for each in (saved, own))
    if theirs != ours:
        name = min(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
        raise ConfigError(
            f"the {file.stem} is made in another way than the one that was saved",
            where=str(file),
            needs=f"{name} {theirs.get(name, 'absent')}",
            found=f"{ours.get(name, 'absent')}",
            do=f"give load a {file.stem} made with the same arguments",
        )
    module.load_state_dict(saved)

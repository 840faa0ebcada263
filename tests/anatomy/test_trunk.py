"""A trunk computes what its model does, from anything that a stem makes; every surgery is one of the trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pomona import anatomy
from pomona.anatomy import Frames, Patches, Points, Trunk
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.trunk import pooled
from pomona.ground.errors import ConfigError, DamagedArtefact, UnsupportedModel

from .conftest import make

OF_WORDS = [
    "llama", "gpt2", "gpt_neox", "gemma2", "phi3", "opt-narrow", "mixtral",
    "bert", "roberta", "electra", "mpnet", "modernbert", "deberta-v2",
]  # fmt: skip
SURGERY = ["llama", "gpt2", "gpt_neox", "gemma2", "opt", "bert", "electra", "vit"]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trunk_of(name: str, **options: Any) -> Trunk:
    """A trunk that reads series of 24 steps."""
    model = make(name)
    own = Trunk(model).body.embedding
    width = anatomy.of(model).hidden_size if own is None else own.axes[1].size
    torch.manual_seed(0)
    return Trunk(model, stem=Frames(width, size=3), **options).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", OF_WORDS)
def test_with_the_models_own_embedding_it_is_the_model(name: str) -> None:
    """Breaks when something that the model does between embedding and head is left out, or done twice."""
    model = make(name)
    body = anatomy.of(model)
    inputs = example_inputs(body)
    mask = torch.ones_like(inputs["input_ids"])
    mask[1, 9:] = 0
    trunk = Trunk(model, stem=model.get_input_embeddings(), head=nn.Identity())
    for given in ({}, {"attention_mask": mask}):
        assert torch.equal(trunk(inputs["input_ids"], **given), body.hidden(**inputs, **given))


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "videomae", "clip_text_model", "clip_vision_model"])
def test_blocks_that_take_no_embeddings_are_entered_directly(name: str) -> None:
    """Breaks when causality, or the norm before or after the blocks, is not that of the model."""
    model = make(name)
    body = anatomy.of(model)
    norm, seen = body.stacks[0].embedding_norm, list[Tensor]()
    first = body.blocks[0].module if norm is None else norm.module
    handle = first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    expected = body.hidden(**example_inputs(body))
    handle.remove()
    assert torch.equal(Trunk(model)(seen[0]), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_of_an_encoder_decoder_it_is_the_encoder_or_both(name: str) -> None:
    """Breaks when the decoder's states are taken for the encoder's, or when a mask reaches only one of them."""
    model = make(name)
    body = anatomy.of(model)
    inputs = example_inputs(body)
    mask = torch.ones_like(inputs["input_ids"])
    mask[1, 9:] = 0
    trunk = Trunk(model, stem=model.get_input_embeddings())
    expected = model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask)[0]
    assert torch.equal(trunk(inputs["input_ids"], attention_mask=mask), expected)
    words = {"decoder_input_ids": inputs["decoder_input_ids"]}
    assert torch.equal(
        trunk(inputs["input_ids"], attention_mask=mask, **words), body.hidden(**inputs, attention_mask=mask)
    )
    with pytest.raises(UnsupportedModel, match="an encoder and a decoder"):
        Trunk(make("bert"))(numbers(2, 3, 32), **words)


@pytest.mark.parametrize("name", SURGERY)
def test_gradients_reach_the_stem_and_surgeries_the_blocks(name: str) -> None:
    """Breaks when the trunk computes with parts that an edit has replaced, or cuts the graph."""
    trunk = trunk_of(name, head=nn.Linear(32, 3), pool="mean")
    series = numbers(2, 24)
    before = trunk(series)
    before.square().sum().backward()
    reached = [*trunk.stem.parameters(), *trunk.head.parameters()]
    reached += [weight.parameter for weight in trunk.body.weights()]
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in reached)

    depth = len(trunk.body.blocks)
    anatomy.of(trunk.model).restack_([0, *range(depth)])  # by another view of the same model
    assert len(trunk.body.blocks) == depth + 1
    deeper = trunk(series)
    assert not torch.allclose(deeper, before)

    ffn = trunk.body.blocks[0].ffn
    with torch.no_grad():
        ffn.down.write_(torch.where(torch.arange(ffn.width) < 8, ffn.down.read(), 0.0))
    masked = trunk(series)
    with trunk.body.edit() as edit:
        edit.keep(ffn.features, torch.arange(8))
    assert trunk.body.blocks[0].ffn.width == 8 and not torch.allclose(masked, deeper)
    torch.testing.assert_close(trunk(series), masked)


@pytest.mark.parametrize("name", ["gpt2", "bert", "vit"])
def test_a_trunk_survives_its_folder(name: str, tmp_path: Path) -> None:
    """Breaks when pooling, stem, head, or sizes that no field of transformers expresses are lost."""
    trunk = trunk_of(name, head=nn.Linear(32, 3), pool="last")
    with trunk.body.edit() as edit:
        edit.keep(trunk.body.blocks[0].ffn.features, torch.arange(8))
    trunk.save(tmp_path / "t")
    width, series = trunk.stem.projection.out_features, numbers(2, 24)
    loaded = Trunk.load(tmp_path / "t", stem=Frames(width, size=3), head=nn.Linear(32, 3))
    assert torch.equal(loaded(series), trunk(series))
    assert torch.equal(anatomy.load(tmp_path / "t").get_parameter(trunk.body.head.name), trunk.body.head.parameter)

    with pytest.raises(ConfigError, match="is there already"):
        trunk.save(tmp_path / "t")
    with pytest.raises(ConfigError, match="stem is made in another way"):
        Trunk.load(tmp_path / "t", stem=Frames(width, size=4), head=nn.Linear(32, 3))
    with pytest.raises(ConfigError, match="head is made in another way"):
        Trunk.load(tmp_path / "t", stem=Frames(width, size=3))
    with pytest.raises(DamagedArtefact, match="not a finished"):
        Trunk.load(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "bert", "vit"])
def test_what_was_not_observed_changes_nothing(name: str) -> None:
    """Breaks when the stem's mask does not reach attention or pooling: a longer series would have other features."""
    trunk = trunk_of(name, pool="mean")
    series, observed = numbers(2, 24), torch.ones(2, 24)
    observed[:, 15:] = 0
    series[:, 15:] = float("nan")
    torch.testing.assert_close(trunk(series, observed), trunk(series[:, :15]))


def test_pooling_by_hand() -> None:
    """Breaks when positions that do not count are pooled, or the last one is that of the longest sequence."""
    hidden = torch.tensor([[[1.0], [3.0], [8.0]], [[float("nan")], [5.0], [7.0]], [[2.0], [2.0], [2.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0]])
    assert pooled(hidden, mask, "mean").flatten().tolist() == [2.0, 6.0, 0.0]
    assert pooled(hidden, mask, "first").flatten().tolist() == [1.0, 5.0, 0.0]
    assert pooled(hidden, mask.bool(), "last").flatten().tolist() == [3.0, 7.0, 0.0]
    assert pooled(hidden[:1], None, "last").item() == 8.0 and pooled(hidden, mask, None) is hidden


def test_stems_by_hand() -> None:
    """Breaks when pieces mix: each is a linear map of its own pixels, steps or points."""
    images = numbers(2, 3, 8, 12)
    patches = Patches(5, size=4)
    cut = images[:, :, 4:8, 8:12].flatten(1)  # the last of two rows of three
    torch.testing.assert_close(patches(images)[:, 5], patches.projection(cut))
    series = numbers(2, 11, 4)
    frames = Frames(5, size=4, channels=4, stride=3)
    embeds, counts = frames(series, torch.arange(11).expand(2, 11) < 6)
    torch.testing.assert_close(frames(series)[:, 1], frames.projection(series[:, 3:7].transpose(1, 2).flatten(1)))
    assert embeds.shape == (2, 3, 5) and counts.tolist() == [[True, True, False]] * 2
    points = Points(5, features=2, positions=3)
    cloud, row = numbers(1, 3, 2), points.positions.weight[2]
    torch.testing.assert_close(points(cloud)[0, 2], points.projection(cloud[0, 2]) + row)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Trunk(make("llama"))(numbers(2, 4, 16)), r"needs: \(batch, positions, 32\)"),
        (lambda: Trunk(make("opt-narrow"))(numbers(2, 4, 32)), r"needs: \(batch, positions, 24\)"),
        (lambda: Trunk(make("llama"))(numbers(4, 32)), r"found: \(4, 32\)"),
        (lambda: Trunk(make("gpt2"))(numbers(1, 65, 32)), "at most 64"),
        (lambda: Trunk(make("roberta"))(numbers(1, 63, 32)), "at most 62"),
        (lambda: Trunk(make("llama"))(numbers(2, 4, 32), attention_mask=torch.ones(2, 5)), "mask does not fit"),
        (lambda: Trunk(make("llama"), pool="min"), "did you mean 'mean'"),
        (lambda: Patches(5, size=4)(numbers(1, 3, 8, 9)), "multiples of 4"),
        (lambda: Patches(5, size=4)(numbers(3, 8, 8)), "height, width"),
        (lambda: Frames(5, size=4)(numbers(1, 3)), "4 or more steps"),
        (lambda: Frames(5, size=4)(numbers(1, 8), torch.ones(1, 7)), "as of what is observed"),
        (lambda: Points(5, features=2, positions=3)(numbers(1, 4, 2)), "at most 3 pieces"),
    ],
)
def test_what_does_not_fit_is_refused(act: Any, message: str) -> None:
    """Breaks when a wrong shape surfaces as a failed product somewhere in the blocks, or not at all."""
    with pytest.raises(ConfigError, match=message):
        act()


def test_blocks_without_a_mask_refuse_one() -> None:
    """Breaks when positions that do not count are silently attended to."""
    with pytest.raises(UnsupportedModel, match="take no mask"):
        Trunk(make("videomae"))(numbers(2, 4, 32), attention_mask=torch.ones(2, 4))

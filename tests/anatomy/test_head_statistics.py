"""The four numbers of each head equal those of the maps that eager attention returns, without making the maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pomona.anatomy import Place, modify_attention, of
from pomona.anatomy.head_statistics import HeadStatistics, head_statistics
from pomona.anatomy.inputs import example_inputs
from pomona.anatomy.modifiers import SparseMask, own
from pomona.ground.errors import ConfigError

from .conftest import inputs_of, make
from .memory import Peak


def maps_of(model: Any, inputs: dict[str, Tensor]) -> dict[Place, Tensor]:
    """(B, N, T, S) of every attention, from the model's eager kernel."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    model.set_attn_implementation(before)
    kinds = [("blocks", "attentions", False)]
    if model.config.is_encoder_decoder:
        kinds = [
            ("encoder", "encoder_attentions", False),
            ("decoder", "decoder_attentions", False),
            ("decoder", "cross_attentions", True),
        ]
    return {
        Place(stack, index, cross): map_
        for stack, name, cross in kinds
        for index, map_ in enumerate(getattr(output, name))
    }


def by_hand(maps: list[Tensor], real: list[Tensor]) -> dict[str, Tensor]:
    """Means over all real queries of all batches, from whole maps."""
    rows: dict[str, list[Tensor]] = {"entropy": [], "first": [], "largest": [], "distance": []}
    for map_, mask in zip(maps, real, strict=True):
        for b in range(map_.shape[0]):
            for t in mask[b].nonzero().flatten().tolist():
                weights = map_[b, :, t].double()
                rows["entropy"].append(-(weights * weights.clamp_min(1e-300).log()).sum(-1))
                rows["first"].append(weights[:, 0])
                rows["largest"].append(weights.max(-1).values)
                rows["distance"].append((weights * (torch.arange(map_.shape[-1]) - t).abs()).sum(-1))
    return {name: torch.stack(values).mean(0) for name, values in rows.items()}


def test_figures_equal_those_of_eager_maps(attending_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when a figure, a mask, a group of heads or the weight of a batch is wrong; blocks of 5 queries."""
    monkeypatch.setattr("pomona.anatomy.dispatch.QUERIES_AT_ONCE", 5)
    model = attending_model.double()
    batches = [inputs_of(model, 2, 12, 1), inputs_of(model, 3, 9, 2)]
    batches[0]["attention_mask"] = torch.ones(2, 12, dtype=torch.int64)
    batches[0]["attention_mask"][0, 8:] = 0
    model.train()
    found = head_statistics(model, batches)
    assert model.training
    model.eval()
    maps = [maps_of(model, batch) for batch in batches]
    assert set(found) == set(maps[0])
    for place, figures in found.items():
        real = [torch.ones(each[place].shape[0], each[place].shape[2], dtype=torch.bool) for each in maps]
        if place.stack != "decoder":
            real[0] = batches[0]["attention_mask"].bool()
        wanted = by_hand([each[place] for each in maps], real)
        assert figures.queries == sum(int(mask.sum()) for mask in real)
        for name in ("entropy", "first", "largest", *(() if place.cross else ("distance",))):
            torch.testing.assert_close(getattr(figures, name), wanted[name], rtol=1e-5, atol=1e-6)
        assert (figures.distance is None) == place.cross


@pytest.mark.parametrize("name", ["vit", "dinov2", "audio-spectrogram-transformer", "videomae", "wav2vec2", "bart"])
def test_figures_of_other_inputs(name: str) -> None:
    """Breaks when queries of models that take no token ids are not found or counted."""
    model = make(name)
    inputs = example_inputs(of(model))
    for place, figures in head_statistics(model, [inputs]).items():
        map_ = maps_of(model, inputs)[place]
        wanted = by_hand([map_], [torch.ones(map_.shape[0], map_.shape[2], dtype=torch.bool)])
        for figure in ("entropy", "first", "largest"):
            torch.testing.assert_close(getattr(figures, figure), wanted[figure], rtol=1e-4, atol=1e-5)


def test_padding_that_sees_nothing_is_not_felt() -> None:
    """Breaks when what padding gets, far from every token that it could see, is not finite and reaches the tokens."""
    model = make("modernbert")
    inputs = inputs_of(model, 1, 12)
    assert of(model).blocks[1].attention.window == 9
    padded = {**inputs, "attention_mask": (torch.arange(12) < 5).long()[None]}
    found = head_statistics(model, [padded])
    for place, wanted in head_statistics(model, [{"input_ids": inputs["input_ids"][:, :5]}]).items():
        for name in ("entropy", "first", "largest", "distance"):
            torch.testing.assert_close(getattr(found[place], name), getattr(wanted, name), rtol=1e-4, atol=1e-5)


def test_known_answers() -> None:
    """Breaks when a unit is wrong: queries that see themselves alone, and queries that see all alike."""
    model = make("bert")
    for block in of(model).blocks:  # equal scores
        block.attention.query.write_(torch.zeros(32, 32))
        assert block.attention.query.bias is not None
        block.attention.query.bias.write_(torch.zeros(32))
    place = Place("blocks", 1, False)
    even = head_statistics(model, [inputs_of(model)])[place]
    assert even.distance is not None
    torch.testing.assert_close(even.entropy, torch.full((4,), 12.0).double().log(), rtol=1e-6, atol=0)
    torch.testing.assert_close(even.first, torch.full((4,), 1 / 12).double(), rtol=1e-6, atol=0)
    expected = sum(abs(t - s) for t in range(12) for s in range(12)) / 144
    torch.testing.assert_close(even.distance, torch.full((4,), expected).double(), rtol=1e-6, atol=0)
    alone = HeadStatistics()
    with torch.no_grad(), modify_attention(model, [SparseMask(torch.eye(12, dtype=torch.bool)), alone]):
        model(**inputs_of(model))
    figures = alone.figures()[place]
    assert figures.distance is not None
    assert figures.entropy.tolist() == [0] * 4 and figures.distance.tolist() == [0] * 4
    assert figures.largest.tolist() == [1] * 4 and figures.first.tolist() == pytest.approx([1 / 12] * 4)


@pytest.mark.parametrize("training", [False, True])
def test_memory_grows_with_the_length_alone(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when a map is made: a quarter of a map of 256 x 256 must not be alive at any time."""
    monkeypatch.setattr("pomona.anatomy.dispatch.QUERIES_AT_ONCE", 8)
    model = make("llama", max_position_embeddings=256, num_hidden_layers=1)
    model.set_attn_implementation("sdpa")
    attention = of(model).blocks[0].attention.module
    ids = torch.randint(96, (1, 256))
    map_bytes = 4 * 256 * 256 * 4
    peaks: list[Peak] = []

    class Watched(HeadStatistics):
        def modify(self, call: Any) -> None:
            super().modify(call)
            peaks.append(Peak())
            peaks[-1].__enter__()

    statistics = Watched()
    attention.register_forward_hook(lambda module, args, output: peaks[-1].__exit__(None, None, None))
    monkeypatch.setattr("pomona.anatomy.attention.LONGEST_EXPLICIT", 0)  # the fused kernel keeps no map either
    with torch.set_grad_enabled(training), modify_attention(model, [statistics]):
        model(input_ids=ids)
    assert peaks[0].peak > 0
    assert peaks[0].peak < map_bytes / 4


def test_only_what_is_asked_for_is_watched() -> None:
    """Breaks when cross-attention is counted although it was left out."""
    model = make("t5")
    found = head_statistics(model, [inputs_of(model)], where=own)
    assert [str(place) for place in found] == [f"{s}.{i}.attention" for s in ("encoder", "decoder") for i in (0, 1)]


def test_padding_on_the_left_and_no_batches_are_refused() -> None:
    """Breaks when the first key is padding, or when figures of nothing are returned."""
    model = make("llama")
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, :3] = 0
    with pytest.raises(ConfigError, match="padding on the right"):
        head_statistics(model, [{**inputs_of(model), "attention_mask": mask}])
    with pytest.raises(ConfigError, match="HeadStatistics changed nothing"):
        head_statistics(model, [])
    wrong = HeadStatistics(counted={"blocks": torch.ones(2, 5)})
    with pytest.raises(ConfigError, match="wrong shape"), modify_attention(model, [wrong]):
        model(**inputs_of(model))

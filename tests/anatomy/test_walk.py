"""Block by block equals the whole: inputs, masks, edits and memory of the walk."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from pomona.anatomy import BlockWalk, of, tap_inputs
from pomona.anatomy.residence import Residence, each_tensor
from pomona.ground.errors import ConfigError, UnsupportedModel

from .conftest import inputs_of, make
from .memory import Peak


def batches_of(model: Any) -> list[dict[str, Tensor]]:
    """Batches of several lengths, one of them padded."""
    batches = [inputs_of(model, 2, 12, 1), inputs_of(model, 1, 9, 2), inputs_of(model, 3, 7, 3)]
    batches[1]["attention_mask"] = torch.ones(1, 9, dtype=torch.int64)
    batches[1]["attention_mask"][0, 6:] = 0
    return batches


def inputs_of_blocks(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """What each block gets in the model's own forward."""
    seen: list[Tensor] = []
    handles = [b.module.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach())) for b in of(model).blocks]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return seen


def test_every_block_gets_the_inputs_of_the_full_forward(any_model: Any) -> None:
    """Breaks when a mask, a window of another block, positions or a carried bias are lost on the way."""
    batches = batches_of(any_model)
    expected = [inputs_of_blocks(any_model, batch) for batch in batches]
    with BlockWalk(any_model, batches) as walk:
        assert walk.tokens == 24 + 9 + 21
        for place, block in enumerate(walk):
            assert block is walk.body.blocks[place]
            for found, wanted in zip(walk.inputs, expected, strict=True):
                torch.testing.assert_close(found, wanted[place], rtol=1e-5, atol=1e-6)


def test_edits_propagate(any_model: Any) -> None:
    """Breaks when later blocks are calibrated on what the unedited ones computed."""
    batches = batches_of(any_model)
    with BlockWalk(any_model, batches) as walk:
        for place, block in enumerate(walk):
            if place:
                expected = inputs_of_blocks(any_model, batches[0])[place]
                torch.testing.assert_close(walk.inputs[0], expected, rtol=1e-5, atol=1e-5)
            before = list(walk.outputs())
            block.ffn.down.write_(block.ffn.down.read() * 3)
            assert not torch.allclose(before[0], next(walk.outputs()))


def test_taps_see_every_row_once(any_model: Any) -> None:
    """Breaks when a turn runs blocks twice, or when the advance is seen by a tap."""
    batches = batches_of(any_model)
    with BlockWalk(any_model, batches) as walk:
        for block in walk:
            rows = 0

            def count(tapped: Tensor) -> None:
                nonlocal rows
                rows += tapped.shape[0]

            with tap_inputs(block.attention.output, count):
                walk.run()
            assert rows == sum(hidden.shape[0] * hidden.shape[1] for hidden in walk.inputs)


def test_the_model_is_left_as_it_was(any_model: Any) -> None:
    """Breaks when recorders, hooks or the evaluation mode stay behind, also after an error."""
    any_model.train()
    modules = {name: id(module) for name, module in any_model.named_modules()}
    with pytest.raises(KeyError, match="stop"), BlockWalk(any_model, batches_of(any_model)) as walk:
        for _ in walk:
            assert not any_model.training
            raise KeyError("stop")
    assert any_model.training
    assert {name: id(module) for name, module in any_model.named_modules()} == modules


def test_only_one_state_per_token_is_kept() -> None:
    """Breaks when the inputs of passed blocks are kept, or a graph is built: memory would grow with depth."""
    model = make("llama")
    with BlockWalk(model, batches_of(model)) as walk:
        turns = iter(walk)
        next(turns)
        first = [weakref.ref(hidden) for hidden in walk.inputs]
        next(turns)
        assert not any(hidden.requires_grad for hidden in walk.inputs)
        gc.collect()
        assert all(reference() is None for reference in first)
        assert not next(walk.outputs()).requires_grad
    with BlockWalk(model, batches_of(model), gradients=True) as walk:
        turns = iter(walk)
        next(turns)
        assert next(walk.outputs()).requires_grad and not walk.inputs[0].requires_grad


class OtherDtype(Residence):
    """Stands in for an accelerator: what is there is float64, what is at home float32, and the two do not mix."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.float64  # type: ignore[assignment]

    def there(self, value: Any) -> Any:
        return each_tensor(value, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def back(self, value: Any, like: Tensor) -> Any:
        return each_tensor(value, lambda tensor: tensor.to(like.dtype) if tensor.is_floating_point() else tensor)


def test_only_the_current_block_is_on_the_device(any_model: Any) -> None:
    """Breaks when a block computes at home, stays away, or is moved without the edits that it got there."""
    batches = batches_of(any_model)
    expected = [inputs_of_blocks(any_model, batch) for batch in batches]
    kept = {name: (id(parameter), parameter.clone()) for name, parameter in any_model.named_parameters()}
    walk = BlockWalk(any_model, batches)
    walk.residence = OtherDtype()
    with walk:
        for place, block in enumerate(walk):
            inside = {name for name, parameter in any_model.named_parameters() if parameter.dtype == torch.float64}
            assert inside == {name for name, _ in any_model.named_parameters() if name.startswith(f"{block.path}.")}
            seen: list[Tensor] = []
            with tap_inputs(block.attention.query, seen.append):
                outputs = list(walk.outputs())
            assert {t.dtype for t in (*seen, *outputs)} == {torch.float64}
            assert all(hidden.dtype == torch.float32 for hidden in walk.inputs)
            for found, wanted in zip(walk.inputs, expected, strict=True):
                torch.testing.assert_close(found, wanted[place], rtol=1e-4, atol=1e-5)
            if block is walk.body.blocks[-1]:
                block.ffn.down.write_(block.ffn.down.read() * 2)
    edited = walk.body.blocks[-1].ffn.down.name
    for name, parameter in any_model.named_parameters():
        assert id(parameter) == kept[name][0] and parameter.dtype == torch.float32
        assert torch.equal(parameter, kept[name][1]) == (name != edited)


def test_a_block_comes_home_after_an_error() -> None:
    """Breaks when an exception, or leaving a walk early, strands a block on the device."""
    model = make("llama")
    for stop in (True, False):
        walk = BlockWalk(model, batches_of(model))
        walk.residence = OtherDtype()
        with pytest.raises(KeyError), walk:
            for block in walk:
                if block.index == 1:
                    assert block.ffn.down.parameter.dtype == torch.float64
                    if stop:
                        raise KeyError
                    break
            raise KeyError
        gc.collect()
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def mapped(model: nn.Module, folder: Path) -> set[str]:
    """Names of the parameters that lie in a file, not in memory of their own."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    areas = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    return {n for n, p in model.named_parameters() if any(start <= p.data_ptr() < end for start, end in areas)}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_weights_stay_in_their_file_until_they_are_edited(tmp_path: Path) -> None:
    """Breaks when loading, or a walk through a device, copies all weights to memory: a large model would not fit."""
    make("llama", tie_word_embeddings=False).save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    everything = {name for name, _ in model.named_parameters()}
    assert mapped(model, tmp_path) == everything
    for edited in (None, "model.layers.1.mlp.down_proj.weight"):
        walk = BlockWalk(model, batches_of(model))
        walk.residence = OtherDtype()
        with walk:
            for block in walk:
                if block.ffn.down.name == edited:
                    block.ffn.down.parameter.data.mul_(2)
        assert mapped(model, tmp_path) == everything - {edited}
    original = LlamaForCausalLM.from_pretrained(tmp_path).state_dict()
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, 2 * original[edited])


def test_gradients_and_new_parameters_come_home() -> None:
    """Breaks when a gradient stays on the device, or a parameter that was put in there does."""
    model = make("llama")
    walk = BlockWalk(model, batches_of(model), gradients=True)
    walk.residence = OtherDtype()
    with walk:
        for block in walk:
            next(walk.outputs()).sum().backward()
            assert block.ffn.up.parameter.grad.dtype == torch.float64
            block.ffn.down.owner.weight = nn.Parameter(torch.ones(32, 48, dtype=torch.float64))
    for block in of(model).blocks:
        assert block.ffn.up.parameter.grad.dtype == block.ffn.down.parameter.dtype == torch.float32


def test_real_devices_are_named() -> None:
    """Breaks when a device is dropped on the way to the residence; moving to where the block is changes nothing."""
    model = make("gpt2")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with BlockWalk(model, batches_of(model), device="cpu") as walk:
        assert walk.residence.device == torch.device("cpu")
        assert len([walk.run() for _ in walk]) == 3
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_memory_is_that_of_one_block_and_the_cache(name: str) -> None:
    """Breaks when memory grows with depth, on the device or at home: six blocks need no more than three."""
    peaks, away = {}, {}
    for count in (3, 6):
        model = make(name, **{"num_layers" if name == "t5" else "num_hidden_layers": count})
        batches = [inputs_of(model, 4, 32, seed) for seed in range(4)]
        if name == "t5":
            for batch in batches:
                batch["decoder_input_ids"] = batch["input_ids"]
        walk = BlockWalk(model, batches)
        with walk, Peak() as peak:
            for _ in walk:
                walk.run()
        peaks[count] = peak.peak
        walk = BlockWalk(model, batches)
        walk.residence = OtherDtype()
        with walk, Peak(torch.float64) as peak:
            for _ in walk:
                walk.run()
        away[count] = peak.peak
        # On the device: one block in float64, and what one batch makes on its way through it.
        block = sum(parameter.numel() * 8 for parameter in walk.body.blocks[-1].module.parameters())
        assert block < peak.peak < block + 40 * (4 * 32 * 32 * 8)
    assert peaks[6] < 1.05 * peaks[3] and away[6] < 1.05 * away[3]
    cache = 4 * (4 * 32 * 32 * 4)
    assert peaks[6] < 12 * cache


def test_a_decoder_reads_the_edited_encoder_without_running_it_again() -> None:
    """Breaks when the encoder runs once more for each batch, or is read as it was before it was edited."""
    model = make("t5")
    batches, body = batches_of(model), of(model)
    runs: list[int] = []
    with BlockWalk(body, batches) as walk:
        for block in body.stacks[0].blocks:
            block.module.register_forward_hook(lambda module, args, output, index=block.index: runs.append(index))
        turns = iter(walk)
        for block in turns:
            if block.kind == "decoder":
                break
            block.ffn.down.write_(block.ffn.down.read() * 2)
        assert sorted(runs) == [0, 0, 0, 1, 1, 1]  # once for each of the three batches
        for batch, held in zip(batches, walk._held, strict=True):
            encoded = model.encoder(input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask"))[0]
            args, kwargs = held.calls[0]
            (given,) = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.shape == encoded.shape)
            torch.testing.assert_close(given, encoded, rtol=1e-5, atol=1e-6)


def test_a_walk_that_differs_from_the_forward_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks when a wrong declaration is believed: here the forward does something after the blocks."""
    model = make("llama")
    handle = model.model.norm.register_forward_pre_hook(lambda m, a: (a[0] * 2 + 1,))
    BlockWalk(model, batches_of(model)).__enter__().__exit__(None, None, None)  # within the final norm: seen by both
    handle.remove()
    inner = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **kw: (inner(**kw)[0] * 1.01,))
    with pytest.raises(UnsupportedModel, match="walked block by block"), BlockWalk(model, batches_of(model)):
        pass


def test_empty_calibration_is_refused() -> None:
    """Breaks when statistics over no tokens are used."""
    with pytest.raises(ConfigError, match="at least one batch"):
        BlockWalk(make("llama"), [])
    walk = BlockWalk(make("llama"), batches_of(make("llama")))
    with pytest.raises(RuntimeError, match="iterate"):
        walk.run()

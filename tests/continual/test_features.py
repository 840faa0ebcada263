"""Features of texts: pooling by hand, and nothing of one text in another's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pomona import anatomy
from pomona.continual.features import Pool, features_of, pooled
from pomona.tasks.stream import Encoded
from tests.continual.conftest import texts
from tests.tiny import bert, llama


def test_by_hand() -> None:
    """Catches padding that counts, and the last position in place of the last token."""
    hidden = torch.tensor([[[1.0], [3.0], [8.0]], [[2.0], [9.0], [9.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    found = {pool: pooled(hidden, mask, pool).flatten().tolist() for pool in ("mean", "first", "last")}
    assert found == {"mean": [2.0, 2.0], "first": [1.0, 2.0], "last": [3.0, 2.0]}


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
@pytest.mark.parametrize("make", [llama, bert], ids=["llama", "bert"])
def test_slow_reference(make: Any, pool: Pool) -> None:
    """Catches features in the order of lengths, and texts that see their padding: one text at a time, unpadded."""
    model, given = make(), texts(5, count=70)
    found = features_of(model, given, pool)
    body = anatomy.of(model.eval())
    for place, row in enumerate(given.rows):
        with torch.no_grad():
            hidden = body.hidden(input_ids=torch.from_numpy(row)[None])[0].double()
        one = {"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1]}[pool]
        torch.testing.assert_close(found[place], one, rtol=1e-4, atol=1e-5)


def test_no_text() -> None:
    """Catches an error in place of nothing."""
    assert features_of(llama(), Encoded([], [], 0, 8)).shape == (0, anatomy.of(llama()).hidden_size)

"""Stems: cut images, series or clouds of points into pieces, and make an embedding of each by one linear map.

    stem = Frames(hidden_size=256, size=16)
    embeds, counts = stem(series, observed)     # (B, T, D), and which positions hold something

A stem is any module that gives (B, T, D), or a pair with (B, T) that says which positions count; these three suffice
for many inputs. A trunk whose blocks do not know places by themselves (those of image encoders) needs `positions`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pomona.ground.errors import ConfigError

Embedded = Tensor | tuple[Tensor, Tensor]


class Stem(nn.Module):
    """A linear map of pieces, and a table of learned positions if one is asked for.

    Args:
        hidden_size: width of the embeddings.
        inputs: numbers in a piece.
        positions: rows of the table of positions; 0: none, the trunk has its own.
    """

    def __init__(self, hidden_size: int, inputs: int, positions: int = 0) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, hidden_size)
        self.positions = nn.Embedding(positions, hidden_size) if positions else None

    def embed(self, pieces_BTI: Tensor) -> Tensor:
        """(B, T, D) of pieces. Raises `ConfigError` when there are more of them than positions."""
        hidden: Tensor = self.projection(pieces_BTI)
        if self.positions is None:
            return hidden
        rows, tokens = self.positions.num_embeddings, hidden.shape[1]
        if tokens > rows:
            raise ConfigError(
                f"{type(self).__name__} has too few positions",
                needs=f"at most {rows} pieces",
                found=f"{tokens}",
                do="make the stem with more positions, or give smaller inputs",
            )
        return hidden + self.positions.weight[:tokens]


class Patches(Stem):
    """Square patches of images, row by row.

    Args:
        size: edge of a patch in pixels.
        channels: of the images.
    """

    def __init__(self, hidden_size: int, size: int, channels: int = 3, positions: int = 0) -> None:
        super().__init__(hidden_size, channels * size * size, positions)
        self.size, self.channels = size, channels

    def forward(self, images: Tensor) -> Tensor:
        """(B, T, D) of (B, channels, height, width). Raises `ConfigError` for edges that are no multiples of `size`."""
        fits = (
            images.dim() == 4 and images.shape[1] == self.channels and not any(e % self.size for e in images.shape[2:])
        )
        _need(fits, f"(batch, {self.channels}, height, width), edges multiples of {self.size}", images)
        return self.embed(nn.functional.unfold(images, self.size, stride=self.size).transpose(1, 2))


class Frames(Stem):
    """Frames of a series or a sound: `size` steps each, one begins `stride` steps after the other.

    Args:
        channels: numbers at every step.
        stride: default: `size`, so that frames do not overlap. Steps after the last whole frame are left out.
    """

    def __init__(
        self, hidden_size: int, size: int, channels: int = 1, stride: int | None = None, positions: int = 0
    ) -> None:
        super().__init__(hidden_size, channels * size, positions)
        self.size, self.channels, self.stride = size, channels, stride or size

    def forward(self, series: Tensor, observed: Tensor | None = None) -> Embedded:
        """(B, T, D) of (B, steps, channels), or of (B, steps) with one channel.

        Args:
            observed: (B, steps), 1 or True where a step was observed; the others count as zero, and a frame without any
                observed step does not count. Then a pair is returned.
        Raises:
            ConfigError: another shape, or less steps than a frame.
        """
        if series.dim() == 2:
            series = series[..., None]
        fits = series.dim() == 3 and series.shape[2] == self.channels and series.shape[1] >= self.size
        _need(fits, f"(batch, {self.size} or more steps, {self.channels})", series)
        if observed is None:
            return self.embed(series.unfold(1, self.size, self.stride).flatten(2))
        series = _observed(series, observed)
        counts = observed.bool().unfold(1, self.size, self.stride).any(-1)
        return self.embed(series.unfold(1, self.size, self.stride).flatten(2)), counts


class Points(Stem):
    """Points of a cloud or steps of a trajectory, each of them a piece.

    Args:
        features: numbers of a point.
    """

    def __init__(self, hidden_size: int, features: int, positions: int = 0) -> None:
        super().__init__(hidden_size, features, positions)
        self.features = features

    def forward(self, points: Tensor, observed: Tensor | None = None) -> Embedded:
        """(B, T, D) of (B, T, features); a pair when `observed` (B, T) says which points there are."""
        _need(points.dim() == 3 and points.shape[2] == self.features, f"(batch, points, {self.features})", points)
        return self.embed(points) if observed is None else (self.embed(_observed(points, observed)), observed.bool())


def _observed(values: Tensor, observed: Tensor) -> Tensor:
    """The values with zeros where nothing was observed, whatever stands there (NaN too)."""
    _need(observed.shape == values.shape[:2], f"{tuple(values.shape[:2])} as of what is observed", observed)
    return torch.where(observed.bool()[..., None], values, 0.0)


def _need(fits: bool, shape: str, found: Tensor) -> None:
    if not fits:
        raise ConfigError("the stem cannot take this", needs=shape, found=f"{tuple(found.shape)}")

"""What every quantization method lets the user choose: the grid, and what to leave alone."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import field_validator

from pomona.anatomy import Anatomy, Weight
from pomona.ground.config import MethodConfig
from pomona.ground.errors import ConfigError, did_you_mean
from pomona.quantization.grid import MAX_BITS, MIN_BITS, Grid


class GridConfig(MethodConfig):
    """The grid of a quantization method. Embeddings, norms, biases and the head always stay as they are."""

    bits: int = 4
    """Width of a code: 2 to 8."""
    group_size: int | None = None
    """Input columns that share a scale, or null for whole rows (the paper's default; 128 is the usual compromise)."""
    symmetric: bool = False
    """Fix the zero point in the middle: one number per group less, a little more error."""
    clip_search: bool = False
    """Shrink every range to where the sum of |error|^2.4 is least. Helps at 2 and 3 bits."""
    skip: tuple[str, ...] = ()
    """Roles to leave in full precision: "attention", "ffn" or single ones such as "ffn.down"."""

    @field_validator("bits")
    @classmethod
    def _bits_can_be_stored(cls, bits: int) -> int:
        if not MIN_BITS <= bits <= MAX_BITS:
            raise ValueError(f"the packed format expresses {MIN_BITS} to {MAX_BITS} bits")
        return bits

    @field_validator("group_size")
    @classmethod
    def _groups_hold_columns(cls, group_size: int | None) -> int | None:
        if group_size is not None and group_size < 1:
            raise ValueError("a group holds at least one column; null means whole rows")
        return group_size

    @property
    def grid(self) -> Grid:
        """The grid that is asked for."""
        return Grid(self.bits, self.group_size, self.symmetric, self.clip_search)

    def check(self, body: Anatomy) -> None:
        """Raise `ConfigError` if the parameters do not fit the model. Computes nothing."""
        roles = {weight.role for weight in body.weights()}
        known = roles | {role.split(".")[0] for role in roles}
        for role in self.skip:
            if role not in known:
                raise ConfigError(f"no weight of this model has the role {role!r}", do=did_you_mean(role, known))
        if not any(self.takes(weight) for weight in body.weights()):
            raise ConfigError("every weight is skipped", where="skip", do="leave at least one role in")

    def takes(self, weight: Weight) -> bool:
        """Whether a weight's role is not skipped."""
        return weight.role not in self.skip and weight.role.split(".")[0] not in self.skip


def once(weights: Sequence[Weight]) -> list[Weight]:
    """The weights without repetitions of tied ones."""
    return list({weight.key: weight for weight in reversed(weights)}.values())[::-1]

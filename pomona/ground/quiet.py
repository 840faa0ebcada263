"""What upstream libraries say and no user of pomona can act on. Each remark is left out by itself, nothing else is.

transformers imports torchao where that is installed, and two remarks appear: of GPU extensions that were not loaded
(pomona calls none of them), and of a deprecated call (torchao's own).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def leave_out_remarks_of_torchao() -> None:
    """Filter the two remarks, whether torchao is imported later, by somebody else, or not at all."""
    logging.getLogger("torchao").addFilter(_unless_extension)
    logging.getLogger("torch.utils._pytree").addFilter(_unless_enum_of_torchao)


def _unless_extension(record: logging.LogRecord) -> bool:
    """False for: Failed to load .../torchao/_C_cutlass_90a.abi3.so."""
    return not (record.getMessage().startswith("Failed to load") and "/_C" in record.getMessage())


def _unless_enum_of_torchao(record: logging.LogRecord) -> bool:
    """False for: <enum 'KernelPreference'> is an Enum subclass and is now natively supported by torch.compile."""
    about = record.args[0] if isinstance(record.args, tuple) and record.args else None
    return not (isinstance(about, type) and about.__module__.partition(".")[0] == "torchao")


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers from drawing a progress bar for every folder that is read or written."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()

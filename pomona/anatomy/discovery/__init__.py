"""Discovery: draft the declaration of an unknown model by running it, and say what could not be proven.

    draft = anatomy.draft(tiny_model)
    print(draft)                     # the declaration as Python source, and what is open
    anatomy.register(draft.shape)    # after a look at it

Names are not trusted. The model runs with random weights, and experiments tell its maps apart: what reads what, what
acts at other positions, what acts linearly. The draft is then verified like any other declaration.
"""

from __future__ import annotations

from pomona.anatomy.discovery.proposal import Draft, draft

__all__ = ["Draft", "draft"]

"""One verified view of the parts of any transformer: Anatomy, Block, Weight, Space."""

from __future__ import annotations

from pomona.anatomy.attention import use_attention
from pomona.anatomy.attention_call import AttentionCall, Place
from pomona.anatomy.block import Attention, Block, FeedForward, Stack
from pomona.anatomy.body import Anatomy, of, towers
from pomona.anatomy.declaration import Shape
from pomona.anatomy.discovery import Draft, draft
from pomona.anatomy.dispatch import Modifier, modify_attention
from pomona.anatomy.edits import Edit, EditPlan
from pomona.anatomy.entering import entering
from pomona.anatomy.guests import GUESTS, KEEPS, guests_of
from pomona.anatomy.loading import load, read_weights, shadow
from pomona.anatomy.permute import permute_
from pomona.anatomy.registry import known_shapes, register
from pomona.anatomy.space import Axis, Space
from pomona.anatomy.stems import Frames, Patches, Points
from pomona.anatomy.taps import (
    replace_branch,
    replace_inputs,
    replace_outputs,
    tap_branch,
    tap_inputs,
    tap_outputs,
    tap_stream,
)
from pomona.anatomy.touched import touched
from pomona.anatomy.trunk import Trunk
from pomona.anatomy.verify import Verification, verify, verify_weights
from pomona.anatomy.walk import BlockWalk
from pomona.anatomy.weight import Norm, Weight

__all__ = [
    "GUESTS",
    "KEEPS",
    "Anatomy",
    "Attention",
    "AttentionCall",
    "Axis",
    "Block",
    "BlockWalk",
    "Draft",
    "Edit",
    "EditPlan",
    "FeedForward",
    "Frames",
    "Modifier",
    "Norm",
    "Patches",
    "Place",
    "Points",
    "Shape",
    "Space",
    "Stack",
    "Trunk",
    "Verification",
    "Weight",
    "draft",
    "entering",
    "guests_of",
    "known_shapes",
    "load",
    "modify_attention",
    "of",
    "permute_",
    "read_weights",
    "register",
    "replace_branch",
    "replace_inputs",
    "replace_outputs",
    "shadow",
    "tap_branch",
    "tap_inputs",
    "tap_outputs",
    "tap_stream",
    "touched",
    "towers",
    "use_attention",
    "verify",
    "verify_weights",
]

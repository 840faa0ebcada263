"""Well-read students: pre-train the small model itself, then let the large one label text for it, then tune it.

Source: Turc et al., "Well-Read Students Learn Better: On the Importance of Pre-training Compact Models",
arXiv:1908.08962, Sec. 3: pre-trained distillation, PD.
Implements: step 2 of the recipe, loss = - sum_c p_teacher(c | x) log p_student(c | x) over unlabelled texts x, without
    temperature, labels or intermediate layers. Step 1 is `pretrain` with masked-lm, step 3 `adapt`; the recipe
    `well-read-students` has all three. `compact` describes the 24 students of the paper, 2 to 12 blocks of 128 to 768.
Deviations: the teacher's entropy, which is constant, is subtracted, so that the loss is 0 where both agree. Left out:
    soft labels kept on disk; the teacher is asked again in every epoch.
Use when: a large model is good at a task, there is text like the task's without labels, and a small model is wanted.
    Cost: a forward pass of the teacher for each text and epoch.
Relations: `kd` with temperature 1 and no weight on labels. Without step 1 it is plain distillation, without step 2
    pre-training and tuning.
Limits: equal classes (or vocabularies), and one tokenizer.
"""

from __future__ import annotations

from typing import Any, Literal

from pomona.anatomy import Anatomy
from pomona.distillation.lesson import DistillationConfig, require_same_outputs
from pomona.distillation.predictions import Predictions
from pomona.distillation.teacher import Teacher
from pomona.engine.protocols import Objective
from pomona.ground.errors import ConfigError, did_you_mean

BLOCKS, HIDDEN = (2, 4, 6, 8, 10, 12), (128, 256, 512, 768)
NAMED = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768)}
"""Blocks and hidden features of the students that have names."""


class WellReadStudentsConfig(DistillationConfig):
    """Learn the teacher's labels of unlabelled text."""

    method: Literal["well-read-students"] = "well-read-students"

    def check(self, student: Anatomy, teacher: Anatomy) -> None:
        """Both must predict the same classes."""
        require_same_outputs(self.method, student, teacher)

    def build(self, teacher: Teacher, task: Objective) -> WellReadStudents:
        """The lesson."""
        return WellReadStudents(self, teacher, task, temperature=1.0, ce_weight=0.0)


class WellReadStudents(Predictions):
    """See the card of this module."""


def compact(name: str | tuple[int, int], shape: str, **changes: Any) -> dict[str, Any]:
    """The description of a compact model: a named one, or (blocks, hidden features) of the paper's grid.

    Heads have 64 features, feed-forwards four times the hidden ones.

    Args:
        name: "tiny", "mini", "small", "medium", "base", or a pair of `BLOCKS` and `HIDDEN`.
        shape: of the model, as in a recipe; the paper's is BERT's.
        changes: other fields of the configuration.
    Raises:
        ConfigError: there is no such student.
    Example:
        >>> compact("mini", "bert")["num_attention_heads"]
        4
    """
    if isinstance(name, str) and name not in NAMED:
        raise ConfigError(f"there is no compact student {name!r}", do=did_you_mean(name, NAMED))
    blocks, hidden = NAMED[name] if isinstance(name, str) else name
    if blocks not in BLOCKS or hidden not in HIDDEN:
        raise ConfigError(f"there is no student of {blocks} blocks and {hidden} features", needs=f"{BLOCKS} x {HIDDEN}")
    sizes = {"num_hidden_layers": blocks, "hidden_size": hidden, "num_attention_heads": hidden // 64}
    return {"shape": shape, **sizes, "intermediate_size": 4 * hidden, **changes}

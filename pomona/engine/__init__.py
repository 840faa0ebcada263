"""The engine: one training loop on accelerate, with its ledger, checkpoints, guards and evaluation."""

from pomona.engine.auxiliary import AuxiliaryObjective, attach
from pomona.engine.evaluate import Quality, evaluate
from pomona.engine.fit import FitConfig, Training, fit
from pomona.engine.flops import measure_flops
from pomona.engine.guards import GuardConfig
from pomona.engine.head_loss import head_loss, linear_cross_entropy
from pomona.engine.ledger import Charge, Ledger
from pomona.engine.metrics import MetricsLog, read_metrics
from pomona.engine.protocols import IGNORED, Batch, Loss, Objective, PredictingObjective, ReadingObjective, Schedule

__all__ = [
    "IGNORED",
    "AuxiliaryObjective",
    "Batch",
    "Charge",
    "FitConfig",
    "GuardConfig",
    "Ledger",
    "Loss",
    "MetricsLog",
    "Objective",
    "PredictingObjective",
    "Quality",
    "ReadingObjective",
    "Schedule",
    "Training",
    "attach",
    "evaluate",
    "fit",
    "head_loss",
    "linear_cross_entropy",
    "measure_flops",
    "read_metrics",
]

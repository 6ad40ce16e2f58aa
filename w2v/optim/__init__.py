"""Optimizers and learning-rate schedules. Importing this package registers the built-in ones."""

from w2v.optim import adam, cosine, fixed, inverse_sqrt, polynomial_decay, sgd, tri_stage
from w2v.optim.base import (
    LR_SCHEDULERS,
    OPTIMIZERS,
    Optimizer,
    Schedule,
    build_optimizer,
    build_schedule,
    register_lr_scheduler,
    register_optimizer,
)

__all__ = [
    "LR_SCHEDULERS",
    "OPTIMIZERS",
    "Optimizer",
    "Schedule",
    "adam",
    "build_optimizer",
    "build_schedule",
    "cosine",
    "fixed",
    "inverse_sqrt",
    "polynomial_decay",
    "register_lr_scheduler",
    "register_optimizer",
    "sgd",
    "tri_stage",
]

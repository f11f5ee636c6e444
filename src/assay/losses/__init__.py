"""Losses to add to a training loop: differentiable scalars."""

from assay.losses.entropy_regulariser import EntropyRegulariser as EntropyRegulariser
from assay.losses.identity_decay import identity_decay_penalty as identity_decay_penalty
from assay.losses.prefix_loss import prefix_lm_loss as prefix_lm_loss
from assay.losses.regret_loss import RegretLoss as RegretLoss

__all__ = ["EntropyRegulariser", "RegretLoss", "identity_decay_penalty", "prefix_lm_loss"]

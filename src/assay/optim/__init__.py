"""Optimizers: Newton-Schulz iterations, Muon for the matrices of a model beside AdamW for the rest, and the hard-margin
problem."""

from assay.optim.max_margin import InfeasibleError as InfeasibleError
from assay.optim.max_margin import MaxMargin as MaxMargin
from assay.optim.max_margin import max_margin as max_margin
from assay.optim.muon import MuonSplit as MuonSplit
from assay.optim.muon import muon_and_adamw as muon_and_adamw
from assay.optim.muon import split_muon_params as split_muon_params
from assay.optim.newton_schulz import newton_schulz as newton_schulz

__all__ = [
    "InfeasibleError",
    "MaxMargin",
    "MuonSplit",
    "max_margin",
    "muon_and_adamw",
    "newton_schulz",
    "split_muon_params",
]

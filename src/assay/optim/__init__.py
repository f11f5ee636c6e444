"""Optimizers: Newton-Schulz iterations, Muon for the matrices of a model beside AdamW for the rest, the same
stacked, the hard-margin problem, ridge regression."""

from assay.optim.max_margin import InfeasibleError as InfeasibleError
from assay.optim.max_margin import MaxMargin as MaxMargin
from assay.optim.max_margin import max_margin as max_margin
from assay.optim.muon import MuonSplit as MuonSplit
from assay.optim.muon import muon_and_adamw as muon_and_adamw
from assay.optim.muon import split_muon_params as split_muon_params
from assay.optim.newton_schulz import newton_schulz as newton_schulz
from assay.optim.ridge import RidgeFit as RidgeFit
from assay.optim.ridge import ridge_regression as ridge_regression
from assay.optim.stacked_muon import StackedMuon as StackedMuon

__all__ = [
    "InfeasibleError",
    "MaxMargin",
    "MuonSplit",
    "RidgeFit",
    "StackedMuon",
    "max_margin",
    "muon_and_adamw",
    "newton_schulz",
    "ridge_regression",
    "split_muon_params",
]

"""Sequence operators `y = T(u) v`: dense, recurrent, convolutional and Jacobian forms of one causal linear map."""

from assay.operators._convolution import ConvolutionOperator as ConvolutionOperator
from assay.operators._dense import DenseOperator as DenseOperator
from assay.operators._jacobian import JacobianOperator as JacobianOperator
from assay.operators._operator import SequenceOperator as SequenceOperator
from assay.operators._realise import Realisation as Realisation
from assay.operators._recurrent import RecurrentOperator as RecurrentOperator

__all__ = [
    "ConvolutionOperator",
    "DenseOperator",
    "JacobianOperator",
    "Realisation",
    "RecurrentOperator",
    "SequenceOperator",
]

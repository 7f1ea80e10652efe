"""Generic operators, each with an exact adjoint and derivatives of any order."""

from labrecon.operators.batched_matrix import BatchedMatrix
from labrecon.operators.burst import Burst
from labrecon.operators.convolution import Convolution
from labrecon.operators.convolutional_dictionary import ConvolutionalDictionary
from labrecon.operators.decimation import Decimation
from labrecon.operators.difference import FiniteDifference
from labrecon.operators.fourier import Fourier, MaskedFourier
from labrecon.operators.matrix import Matrix
from labrecon.operators.pointwise import Diagonal, Identity, Mask
from labrecon.operators.real import AsComplex
from labrecon.operators.sparse import SparseMatrix
from labrecon.operators.subset_design import SubsetDesign
from labrecon.operators.unitary import Unitary
from labrecon.operators.warp import Warp
from labrecon.operators.wavelet import Wavelet

__all__ = [
    "AsComplex",
    "BatchedMatrix",
    "Burst",
    "Convolution",
    "ConvolutionalDictionary",
    "Decimation",
    "Diagonal",
    "FiniteDifference",
    "Fourier",
    "Identity",
    "Mask",
    "MaskedFourier",
    "Matrix",
    "SparseMatrix",
    "SubsetDesign",
    "Unitary",
    "Warp",
    "Wavelet",
]

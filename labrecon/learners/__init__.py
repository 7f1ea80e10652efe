"""Learners: what networks are trained with."""

from labrecon.learners.denoiser import Denoising
from labrecon.learners.exchange import ExchangeResult, exchange
from labrecon.learners.losses import l1, mse, one_minus_ssim
from labrecon.learners.samples import ObjectBatch, ObjectSamples, PairSamples, split
from labrecon.learners.supervised import Supervised

__all__ = [
    "Denoising",
    "ExchangeResult",
    "ObjectBatch",
    "ObjectSamples",
    "PairSamples",
    "Supervised",
    "exchange",
    "l1",
    "mse",
    "one_minus_ssim",
    "split",
]

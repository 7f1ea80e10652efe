"""Learners: what networks are trained with."""

from labrecon.learners.denoiser import Denoising
from labrecon.learners.design import Design, hardened
from labrecon.learners.exchange import ExchangeResult, exchange
from labrecon.learners.fisher import FisherDesign, fisher_information
from labrecon.learners.greedy import greedy
from labrecon.learners.jitter import Jitter, parse_jitter
from labrecon.learners.layer_loss import LayerLoss
from labrecon.learners.losses import l1, mse, one_minus_ssim
from labrecon.learners.samples import (
    ObjectBatch,
    ObjectSamples,
    PairSamples,
    sample_generator,
    split,
)
from labrecon.learners.supervised import Supervised

__all__ = [
    "Denoising",
    "Design",
    "ExchangeResult",
    "FisherDesign",
    "Jitter",
    "LayerLoss",
    "ObjectBatch",
    "ObjectSamples",
    "PairSamples",
    "Supervised",
    "exchange",
    "fisher_information",
    "greedy",
    "hardened",
    "l1",
    "mse",
    "one_minus_ssim",
    "parse_jitter",
    "sample_generator",
    "split",
]

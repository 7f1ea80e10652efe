"""labrecon's own solvers, priors, writers and commands, registered as a plugin's would be."""

from __future__ import annotations

from labrecon.plugins import CONTRACT, Registry, hookimpl

LABRECON_CONTRACT = CONTRACT


@hookimpl
def labrecon_operators() -> Registry:
    """The bundled operators."""
    return {
        "convolution": "labrecon.operators:Convolution",
        "diagonal": "labrecon.operators:Diagonal",
        "finite_difference": "labrecon.operators:FiniteDifference",
        "fourier": "labrecon.operators:Fourier",
        "identity": "labrecon.operators:Identity",
        "mask": "labrecon.operators:Mask",
        "masked_fourier": "labrecon.operators:MaskedFourier",
        "matrix": "labrecon.operators:Matrix",
        "sparse_matrix": "labrecon.operators:SparseMatrix",
        "wavelet": "labrecon.operators:Wavelet",
    }


@hookimpl
def labrecon_solvers() -> Registry:
    """The bundled solvers."""
    return {
        "admm": "labrecon.solvers:ADMM",
        "cg": "labrecon.solvers:CG",
        "direct": "labrecon.solvers:Direct",
        "fista": "labrecon.solvers:FISTA",
        "gradient": "labrecon.solvers:GradientDescent",
        "hqs": "labrecon.solvers:HQS",
        "ista": "labrecon.solvers:ISTA",
        "mlem": "labrecon.solvers:MLEM",
        "pdhg": "labrecon.solvers:PDHG",
        "sirt": "labrecon.solvers:SIRT",
    }


@hookimpl
def labrecon_priors() -> Registry:
    """The bundled priors."""
    return {
        "box": "labrecon.priors:Box",
        "group_l1": "labrecon.priors:GroupL1",
        "l1": "labrecon.priors:L1",
        "nonneg": "labrecon.priors:NonNegative",
        "tgv": "labrecon.priors:TGV",
        "tikhonov": "labrecon.priors:Tikhonov",
        "tv": "labrecon.priors:TV",
        "wavelet": "labrecon.priors:WaveletL1",
        "zero": "labrecon.prior:Zero",
    }


@hookimpl
def labrecon_feasible_sets() -> Registry:
    """The bundled feasible sets."""
    return {
        "binary": "labrecon.design:Binary",
        "box": "labrecon.design:Box",
        "budget": "labrecon.design:Budget",
        "minimum_spacing": "labrecon.design:MinimumSpacing",
        "nonneg": "labrecon.design:NonNegative",
        "quantised": "labrecon.design:Quantised",
        "simplex": "labrecon.design:Simplex",
        "subset": "labrecon.design:Subset",
    }


@hookimpl
def labrecon_writers() -> Registry:
    """The bundled volume formats."""
    return {
        "hdf5": "labrecon.io.hdf5:write_hdf5",
        "tiff": "labrecon.io.tiff:write_tiff",
        "zarr": "labrecon.io.zarr:write_zarr",
    }


@hookimpl
def labrecon_metrics() -> Registry:
    """The bundled metrics."""
    return {
        "nrmse": "labrecon.metrics:nrmse",
        "psnr": "labrecon.metrics:psnr",
        "ssim": "labrecon.metrics:ssim",
    }


@hookimpl
def labrecon_commands() -> Registry:
    """The bundled commands."""
    return {
        "recon": "labrecon.commands:recon",
        "describe": "labrecon.commands:describe",
        "check": "labrecon.commands:check",
        "new": "labrecon.commands:new",
        "simulate": "labrecon.commands:simulate",
        "plugins": "labrecon.commands:plugins",
        "demo": "labrecon.commands:demo",
    }

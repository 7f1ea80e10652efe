"""labrecon's own solvers, priors, writers and commands, registered as a plugin's would be."""

from __future__ import annotations

from labrecon.plugins import CONTRACT, Registry, hookimpl

LABRECON_CONTRACT = CONTRACT


@hookimpl
def labrecon_operators() -> Registry:
    """The bundled operators."""
    return {
        "as_complex": "labrecon.operators:AsComplex",
        "burst": "labrecon.operators:Burst",
        "batched_matrix": "labrecon.operators:BatchedMatrix",
        "convolution": "labrecon.operators:Convolution",
        "convolutional_dictionary": "labrecon.operators:ConvolutionalDictionary",
        "decimation": "labrecon.operators:Decimation",
        "diagonal": "labrecon.operators:Diagonal",
        "finite_difference": "labrecon.operators:FiniteDifference",
        "fourier": "labrecon.operators:Fourier",
        "identity": "labrecon.operators:Identity",
        "mask": "labrecon.operators:Mask",
        "masked_fourier": "labrecon.operators:MaskedFourier",
        "matrix": "labrecon.operators:Matrix",
        "sparse_matrix": "labrecon.operators:SparseMatrix",
        "subset_design": "labrecon.operators:SubsetDesign",
        "warp": "labrecon.operators:Warp",
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
        "gauss-newton": "labrecon.solvers:GaussNewton",
        "gradient": "labrecon.solvers:GradientDescent",
        "hqs": "labrecon.solvers:HQS",
        "ista": "labrecon.solvers:ISTA",
        "langevin": "labrecon.solvers.langevin:Langevin",
        "lucas-kanade": "labrecon.solvers:LucasKanade",
        "mlem": "labrecon.solvers:MLEM",
        "pdhg": "labrecon.solvers:PDHG",
        "perturb-optimise": "labrecon.solvers.perturb_optimise:PerturbOptimise",
        "sirt": "labrecon.solvers:SIRT",
    }


@hookimpl
def labrecon_priors() -> Registry:
    """The bundled priors."""
    return {
        "box": "labrecon.priors:Box",
        "denoiser": "labrecon.networks.denoiser_file:denoiser_from_file",
        "finite-set": "labrecon.priors.finite_set:FiniteSet",
        "group_l1": "labrecon.priors:GroupL1",
        "l1": "labrecon.priors:L1",
        "leaky_l1": "labrecon.priors.leaky:LeakyL1",
        "nonneg": "labrecon.priors:NonNegative",
        "patch-dictionary": "labrecon.priors.patch_dictionary:PatchDictionary",
        "tgv": "labrecon.priors:TGV",
        "tikhonov": "labrecon.priors:Tikhonov",
        "tv": "labrecon.priors:TV",
        "wavelet": "labrecon.priors:WaveletL1",
        "zero": "labrecon.prior:Zero",
    }


@hookimpl
def labrecon_networks() -> Registry:
    """The bundled networks: factories of a problem."""
    return {
        "admm-csnet": "labrecon.networks.admm_csnet:make_admm_csnet",
        "admm-net": "labrecon.networks.admm_net:make_admm_net",
        "alista": "labrecon.networks.alista:make_alista",
        "calibrated": "labrecon.networks.calibrated:make_calibrated",
        "de-admm": "labrecon.networks.deep_splitting:make_de_admm",
        "dcea": "labrecon.networks.dcea:make_dcea",
        "de-grad": "labrecon.networks.deep_equilibrium:make_de_grad",
        "de-hqs": "labrecon.networks.deep_splitting:make_de_hqs",
        "de-prox": "labrecon.networks.deep_equilibrium:make_de_prox",
        "detnet": "labrecon.networks.detnet:make_detnet",
        "equilibrium": "labrecon.networks.by_name:make_equilibrium",
        "fbp-convnet": "labrecon.networks.fbp_convnet:make_fbp_convnet",
        "fista-net": "labrecon.networks.fista_net:make_fista_net",
        "ista-net": "labrecon.networks.ista_net:make_ista_net",
        "ista-net-plus": "labrecon.networks.ista_net:make_ista_net_plus",
        "learned-chambolle-pock": "labrecon.networks.learned_primal:make_learned_chambolle_pock",
        "learned-momentum": "labrecon.networks.learned_momentum:make_learned_momentum",
        "learned-primal": "labrecon.networks.learned_primal:make_learned_primal",
        "lgd": "labrecon.networks.learned_gradient:make_lgd",
        "lista": "labrecon.networks.lista:make_lista",
        "lpd": "labrecon.networks.learned_primal_dual:make_lpd",
        "lucas-kanade": "labrecon.networks.lucas_kanade:make_lucas_kanade",
        "modl": "labrecon.networks.modl:make_modl",
        "pbnet": "labrecon.networks.pbnet:make_pbnet",
        "pnp": "labrecon.networks.plug_and_play:make_pnp",
        "reused": "labrecon.networks.reused:make_reused",
        "tikhonov": "labrecon.networks.tikhonov:make_tikhonov",
        "unrolled": "labrecon.networks.by_name:make_unrolled",
    }


@hookimpl
def labrecon_learners() -> Registry:
    """The bundled learners: called with network, operator, noise and options."""
    return {
        "denoising": "labrecon.learners.denoiser:make_denoising",
        "design": "labrecon.learners:Design",
        "equivariant": "labrecon.learners.self_supervised.factories:make_equivariant",
        "fisher": "labrecon.learners.fisher:make_fisher_design",
        "noise2inverse": "labrecon.learners.self_supervised.factories:make_noise2inverse",
        "robust-equivariant": "labrecon.learners.self_supervised.factories:make_robust_equivariant",
        "ssdu": "labrecon.learners.self_supervised.factories:make_ssdu",
        "supervised": "labrecon.learners:Supervised",
        "sure": "labrecon.learners.self_supervised.factories:make_sure",
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
        "recon": "labrecon.recon_command:recon",
        "intervals": "labrecon.intervals_command:intervals",
        "status": "labrecon.batch_command:status",
        "retry": "labrecon.batch_command:retry",
        "train": "labrecon.train_command:train",
        "adapt": "labrecon.adapt_command:adapt",
        "design": "labrecon.design_command:design",
        "describe": "labrecon.commands:describe",
        "check": "labrecon.commands:check",
        "new": "labrecon.commands:new",
        "simulate": "labrecon.commands:simulate",
        "plugins": "labrecon.commands:plugins",
        "demo": "labrecon.commands:demo",
        "reproduce": "labrecon.reproduce_command:reproduce",
    }

"""Probes: how far does a logit depend on the other samples of its batch? One quantity a file, for any network.

Every probe takes a function `f` (a module, or any callable) in the mode in which it is passed, and leaves it unchanged,
bit for bit. Randomness comes from `generator`, by default a fresh one with seed 0. The optimization probes (covariate
shift, landscape, kernel gradients, noise, propagation) take a network, a closure that returns its loss, and a batch
instead (see `objective`), and leave the network unchanged too.
"""

from gannorm.probes.dependence.assertion import BatchCouplingError, assert_batch_invariant
from gannorm.probes.dependence.batch_invariance import BatchInvariance, batch_invariance
from gannorm.probes.dependence.common_mode_gain import common_mode_gain
from gannorm.probes.dependence.companion_variance import companion_shift, companion_variance
from gannorm.probes.dependence.composition_curve import (
    CompositionCurve,
    CompositionGap,
    composition_curve,
    composition_gap,
)
from gannorm.probes.dependence.coupled_layers import LayerCoupling, coupled_layers, locate_coupling
from gannorm.probes.dependence.coupling_matrix import coupling_matrix, coupling_ratio
from gannorm.probes.dependence.estimate_coupling import CouplingEstimate, estimate_coupling
from gannorm.probes.dependence.icc import IntraclassCorrelation, icc
from gannorm.probes.dependence.judgements import Cells
from gannorm.probes.dependence.leak_ratio import Coefficient, LeakRatio, leak_ratio
from gannorm.probes.dependence.loss_coupling import LossCoupling, loss_coupling
from gannorm.probes.dependence.swap_test import SwapTest, swap_test
from gannorm.probes.dependence.uniformity import Uniformity, uniformity
from gannorm.probes.optimization.condition_number import ConditionNumber, condition_number
from gannorm.probes.optimization.gradient_statistics import GradientStatistics, gradient_statistics
from gannorm.probes.optimization.internal_covariate_shift import (
    InternalCovariateShift,
    internal_covariate_shift,
    snapshot,
)
from gannorm.probes.optimization.landscape import Landscape, landscape
from gannorm.probes.optimization.loss_surface import LossSurface, loss_surface
from gannorm.probes.optimization.mean_gradient import MeanGradient, mean_gradient
from gannorm.probes.optimization.sgd_noise import SGDNoise, sgd_noise
from gannorm.probes.optimization.signal_propagation import SignalPropagation, signal_propagation
from gannorm.probes.optimization.unit_variance import UnitVariance, unit_variance
from gannorm.probes.optimization.variance_by_dimension import VarianceByDimension, variance_by_dimension
from gannorm.probes.theory import (
    Problem,
    deep_linear_network,
    one_neuron_chain,
    product_density,
    product_edge,
    product_spectrum,
)

__all__ = [
    "BatchCouplingError",
    "BatchInvariance",
    "Cells",
    "Coefficient",
    "CompositionCurve",
    "CompositionGap",
    "ConditionNumber",
    "CouplingEstimate",
    "GradientStatistics",
    "InternalCovariateShift",
    "IntraclassCorrelation",
    "Landscape",
    "LayerCoupling",
    "LeakRatio",
    "LossCoupling",
    "LossSurface",
    "MeanGradient",
    "Problem",
    "SGDNoise",
    "SignalPropagation",
    "SwapTest",
    "Uniformity",
    "UnitVariance",
    "VarianceByDimension",
    "assert_batch_invariant",
    "batch_invariance",
    "common_mode_gain",
    "companion_shift",
    "companion_variance",
    "composition_curve",
    "composition_gap",
    "condition_number",
    "coupled_layers",
    "coupling_matrix",
    "coupling_ratio",
    "deep_linear_network",
    "estimate_coupling",
    "gradient_statistics",
    "icc",
    "internal_covariate_shift",
    "landscape",
    "leak_ratio",
    "locate_coupling",
    "loss_coupling",
    "loss_surface",
    "mean_gradient",
    "one_neuron_chain",
    "product_density",
    "product_edge",
    "product_spectrum",
    "sgd_noise",
    "signal_propagation",
    "snapshot",
    "swap_test",
    "uniformity",
    "unit_variance",
    "variance_by_dimension",
]

"""The normalizers of the study, by name, in two slots that can be crossed: one for activations, one for weights."""

# Importing a family registers its entries, in this order.
from gannorm.normalizers import (  # noqa: F401
    batch,
    group,
    lp,
    pointwise,
    reference,
    renorm,
    response,
    sync,
    uncoupled,
    virtual,
    weights,
)
from gannorm.normalizers.reference import refresh_reference, set_reference
from gannorm.normalizers.slots import NORMALIZERS, WEIGHT_NORMALIZERS, Normalizer, WeightNormalizer, normalizer

NORMALIZERS.seal()
WEIGHT_NORMALIZERS.seal()

__all__ = [
    "NORMALIZERS",
    "WEIGHT_NORMALIZERS",
    "Normalizer",
    "WeightNormalizer",
    "normalizer",
    "refresh_reference",
    "set_reference",
]

"""The normalizers of the study, by name, in two slots that can be crossed: one for activations, one for weights."""

# Importing a family registers its entries, in this order.
from gannorm.normalizers import batch, group, lp, renorm, response, sync, virtual, weights  # noqa: F401
from gannorm.normalizers.slots import NORMALIZERS, WEIGHT_NORMALIZERS, Normalizer, WeightNormalizer, normalizer
from gannorm.normalizers.virtual import set_reference

__all__ = ["NORMALIZERS", "WEIGHT_NORMALIZERS", "Normalizer", "WeightNormalizer", "normalizer", "set_reference"]

"""The normalizers of the study, by name, in two slots that can be crossed: one for activations, one for weights."""

from importlib import import_module
from pkgutil import iter_modules

from gannorm.normalizers.slots import NORMALIZERS, WEIGHT_NORMALIZERS, Normalizer, WeightNormalizer, normalizer

for _family in iter_modules(__path__):  # importing one registers its entries, in alphabetical order of the files
    import_module(f"{__name__}.{_family.name}")

from gannorm.normalizers.reference import refresh_reference, set_reference  # noqa: E402

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

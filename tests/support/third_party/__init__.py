"""Networks of the kinds that public code holds, each with the layers that mix its batch."""

from support.third_party import batches, state, structure
from support.third_party.case import CASES, Case, mlp
from support.third_party.structure import Residual

__all__ = ["CASES", "Case", "Residual", "batches", "mlp", "state", "structure"]

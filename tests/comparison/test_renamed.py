"""Old keys read under today's names, and today's names stay."""

from __future__ import annotations

from gannorm.comparison.quantities import QUANTITIES
from gannorm.comparison.renamed import renamed


def test_todays_names_stay() -> None:
    for quantity in QUANTITIES:
        assert renamed(quantity.name) == quantity.name


def test_old_keys_become_todays() -> None:
    names = {quantity.name for quantity in QUANTITIES}
    for old in ("probe/train/auc_pure", "probe/eval/swap_max_change", "why/generator/kurtosis"):
        assert renamed(old) in names
    assert renamed("probe/generator/train/coupling_ratio") in names
    assert (renamed("loss_d"), renamed("loss_g"), renamed("loss_d_extra")) == ("loss/d", "loss/g", "loss_d_extra")

"""Metric keys of earlier versions under today's names: one table, so that old run directories stay readable."""

from __future__ import annotations

RENAMED = {  # a whole key, or the beginning of one that ends in "/"
    "loss_d": "loss/d",
    "loss_g": "loss/g",
    "probe/generator/train/": "batch_dependence/generator/",
    "probe/": "batch_dependence/",
    "why/": "optimization/",
}


def renamed(key: str) -> str:
    """Today's name of a metric.

    >>> renamed("probe/train/auc_pure"), renamed("loss_d"), renamed("images_per_second")
    ('batch_dependence/train/auc_pure', 'loss/d', 'images_per_second')
    """
    for old, new in RENAMED.items():
        if key == old or (old.endswith("/") and key.startswith(old)):
            return new + key[len(old) :]
    return key

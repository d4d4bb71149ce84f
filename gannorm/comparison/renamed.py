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


def quantity_renamed(name: str) -> str:
    """Today's name of a quantity in a table.csv of an earlier version.

    >>> quantity_renamed("train/accuracy_fall"), quantity_renamed("why/generator/kurtosis")
    ('batch_dependence/train/accuracy_gap', 'optimization/generator/kurtosis')
    """
    mode, _, rest = name.partition("/")
    if mode in ("train", "eval"):
        return f"batch_dependence/{mode}/{rest.replace('_fall', '_gap')}"
    return renamed(name)

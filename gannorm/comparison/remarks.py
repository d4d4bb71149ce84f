"""Cautions about the runs, for the reader of a difference: missing, early or uneven scores and probes."""

from __future__ import annotations

from collections.abc import Sequence

from gannorm.comparison.quantities import FINAL_PROBES
from gannorm.comparison.runs import Run
from gannorm.comparison.scores import ACCURACY, SCORES, Score

NAMED = 8  # runs that a remark names


def remarks(runs: Sequence[Run]) -> list[str]:
    """Every remark on the finished runs of a comparison."""
    checks = (scored_without_images, scored_early, scored_unevenly, measured_unevenly)
    return [remark for check in checks for remark in check(runs)]


def scored_early(runs: Sequence[Run]) -> list[str]:
    """A remark on runs whose last score is further from their end than that of the others.

    Checks each score separately: a reconstruction may be missing where the others exist.
    """
    early: list[str] = []
    for score in SCORES:
        kept = [run for run in runs if not run.ends_without_images]
        before = [(run.name, run.step - max(curve)) for run in kept if (curve := run.score(score.name))]
        least = min((steps for _, steps in before), default=0)
        early += [f"{name} ({steps} steps before its end)" for name, steps in before if steps > least]
    if not early:
        return []
    return [f"these runs were last scored earlier than the others, perhaps for a damaged checkpoint: {_listed(early)}."]


def scored_without_images(runs: Sequence[Run]) -> list[str]:
    """A remark on the runs whose last scored images were not finite: their conditions' means lack them."""
    lost = [run.name for run in runs if run.ends_without_images]
    if not lost:
        return []
    return [
        f"the last images of these generators are not finite: {_listed(lost)}. They have no last score and no mean "
        "level, so their conditions' means are over the other runs."
    ]


def scored_unevenly(runs: Sequence[Run]) -> list[str]:
    """A remark on runs that were scored, or tested, at different steps."""
    uneven = []
    for score in (*SCORES, ACCURACY):
        steps = {frozenset(_curve(run, score)) for run in runs} - {frozenset()}
        if len(steps) > 1:
            uneven.append(score.title)
    if not uneven:
        return []
    return [
        f"not all runs were scored at the same steps ({', '.join(uneven)}): the best of more steps is better by "
        "chance, and the mean levels are over different steps; compare the last scores."
    ]


def measured_unevenly(runs: Sequence[Run]) -> list[str]:
    """A remark for each kind of probe whose spacing, and so the steps of a run's value, differs between runs."""
    lines = []
    for key in ("probe_every", "optimization_every"):
        given = [run.config.get(key) for run in runs]
        spacings = sorted({every for every in given if isinstance(every, int)} - {0})
        if len(spacings) > 1:
            lines.append(
                f"{key} is {' or '.join(map(str, spacings))}: a run's value is the mean of its last {FINAL_PROBES} "
                "probes, which are closer together in some runs; curves show the steps that all seeds share."
            )
    return lines


def _curve(run: Run, score: Score) -> dict[int, float]:
    return dict(run.series(score.name) if score is ACCURACY else run.score(score.name))


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more

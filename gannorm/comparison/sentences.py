"""The sentences of a comparison: the verdict on each discriminator, and the effects on the scores.

Every sentence is a function of the rows and verdicts. Crossed factors have a table and no sentences: a sentence over
many combinations hides which of them it is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gannorm.comparison.conditions import Condition
from gannorm.comparison.multiplicity import Corrected
from gannorm.comparison.numbers import counted, interval, short
from gannorm.comparison.quantities import TRAIN
from gannorm.comparison.scores import ACCURACY, SCORES, Score
from gannorm.comparison.table import Row, Rows
from gannorm.comparison.verdicts import UNPROBED
from gannorm.verdict import KINDS, Verdict

IN_SENTENCES = [s for s in SCORES if s.name in ("inception_score", "fid", "reconstruction")]  # the rest are in tables
NAMED = 4  # conditions that a sentence names before it counts the rest
SHORT = 80  # characters of a reason that the headline gives
# The conflict end in words, for a reader who does not know the term: its AUC is a share of pairs.
CONFLICT = "it ranks a real image placed among fakes above a fake placed among real images in {} of 100 pairs"
MEANING = {
    "judges batches": f"{CONFLICT}, where guessing gives 50",
    "judges images": f"{CONFLICT}, as in any other batch",
    "learns from batches": "its answers do not depend on the other images of the batch, but its gradients do",
    "judges by contrast": "it ranks better where real images and fakes share a batch",
    "judges both": f"{CONFLICT}, fewer than in batches of one class",
}


def headline(conditions: Sequence[Condition], rows: Rows, verdicts: Mapping[str, Verdict]) -> str:
    """The first line: the verdicts in plain words; for classifiers, their accuracy."""
    if conditions[0].task == "classifier":
        return _accuracy(conditions, rows)
    probed = [c for c in conditions if c.runs and verdicts[c.label].reason != UNPROBED]
    if not probed:
        scores = [s for score in IN_SENTENCES if (s := scored(conditions, rows, score))]
        return scores[0] if scores else "No finished run was probed: nothing is known about batch dependence."
    parts: list[str] = []
    for kind in reversed(KINDS):
        members = [c for c in probed if verdicts[c.label].kind == kind]
        if members:
            who = "it" if parts else "the discriminator"
            if kind == "undecided":
                parts.append(f"With {names(members)}, what {who} judges is undecided{_reason(members, verdicts)}.")
            else:
                parts.append(f"With {names(members)}, {who} {_meaning(kind, members, rows)}.")
    return " ".join(parts)


def findings(conditions: Sequence[Condition], rows: Rows, verdicts: Mapping[str, Verdict]) -> list[str]:
    """One sentence a condition on batch dependence, then one a score on the conditions against the baseline."""
    if conditions[0].task == "classifier":
        return [s for s in [scored(conditions, rows, ACCURACY)] if s]
    sentences = []
    for c in conditions:
        if c.runs and verdicts[c.label].reason != UNPROBED:
            sentences.append(f"{c.title}: {verdicts[c.label]}.")
    return sentences + [s for score in IN_SENTENCES if (s := scored(conditions, rows, score))]


def scored(conditions: Sequence[Condition], rows: Rows, score: Score) -> str:
    """One score against the baseline, in numbers for at most NAMED conditions, otherwise by verdict; "" without it."""
    name = f"{score.name}/final"
    compared = [(c, row) for c in conditions[1:] if (row := rows.get((c.label, name))) and row.effect]
    if not compared:
        return ""
    base = rows[conditions[0].label, name]
    start = f"{score.title}{score.whose}, {short(base.estimate.mean)} with {conditions[0].title}"
    if len(compared) <= NAMED:
        return f"{start}: {'; '.join(_against(c.title, row, score) for c, row in compared)}."
    by_verdict: dict[str, list[Condition]] = {}
    for c, row in compared:
        by_verdict.setdefault(worth(row.verdict, score), []).append(c)
    order = ("better", "worse")
    kinds = sorted(by_verdict, key=lambda word: order.index(word) if word in order else len(order))
    clauses = "; ".join(f"{word} with {names(by_verdict[word])}" for word in kinds)
    return f"{start}: {clauses}."


def worth(verdict: str, score: Score) -> str:
    """A verdict on an effect in terms of the score: "higher" is "better" for a score where higher is better."""
    if verdict not in ("higher", "lower"):
        return verdict
    return "better" if verdict == score.better else "worse"


def names(members: Sequence[Condition]) -> str:
    """Conditions by title, counted where they are many."""
    titles = [c.title for c in members]
    if len(titles) > NAMED:
        titles = [*titles[: NAMED - 1], f"{len(titles) - NAMED + 1} more"]
    if len(titles) == 1:
        return titles[0]
    return f"{', '.join(titles[:-1])} and {titles[-1]}"


def family(corrections: Mapping[tuple[str, str], Corrected]) -> str:
    """How the verdicts on scores were corrected, for the page; "" where no difference was tested."""
    count = max((correction.comparisons for correction in corrections.values()), default=0)
    if not count:
        return ""
    return f"Verdicts on last values are corrected by Holm's method over {counted(count, 'comparison')}."


def _reason(members: Sequence[Condition], verdicts: Mapping[str, Verdict]) -> str:
    """A short reason that the conditions share, after a colon; otherwise a reference to the lines below."""
    reasons = {verdicts[c.label].reason for c in members}
    reason = min(reasons, key=len)
    if len(reasons) == 1 and len(reason) <= SHORT:
        return f": {reason}"
    return ", for the reason below" if len(reasons) == 1 else ", for the reasons below"


def _meaning(kind: str, members: Sequence[Condition], rows: Rows) -> str:
    """A kind of verdict, with its meaning in numbers."""
    conflicts = [row.estimate.mean for c in members if (row := rows.get((c.label, f"{TRAIN}auc_conflict")))]
    if not conflicts:
        return kind
    return f"{kind}: {MEANING[kind].format(_of_a_hundred(conflicts))}"


def _of_a_hundred(aucs: Sequence[float]) -> str:
    """AUCs as counts of 100 pairs, "5" or "74 to 77".

    >>> _of_a_hundred([0.05]), _of_a_hundred([0.743, 0.771])
    ('5', '74 to 77')
    """
    counts = sorted({round(100 * auc) for auc in aucs})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _accuracy(conditions: Sequence[Condition], rows: Rows) -> str:
    """How well classifiers learned: few of them in numbers, more by verdict."""
    tested = [(c.title, row) for c in conditions if (row := rows.get((c.label, f"{ACCURACY.name}/final")))]
    if not tested:
        return f"{ACCURACY.title}: no finished run was tested."
    if len(tested) > NAMED and (by_verdict := scored(conditions, rows, ACCURACY)):
        return by_verdict
    clauses = []
    for title, row in tested[:NAMED]:
        compared = row.effect is not None and row.effect.difference.low is not None
        clauses.append(f"{title} {short(row.estimate.mean)}")
        if compared:
            clauses[-1] += f", {worth(row.verdict, ACCURACY)}"
    return f"{ACCURACY.title}: {'; '.join(clauses)}."


def _against(title: str, row: Row, score: Score) -> str:
    assert row.effect is not None
    size = interval(*score.change(row.effect), signed=True)
    return f"{short(row.estimate.mean)} with {title}, {size}, {worth(row.verdict, score)} ({row.effect.design})"

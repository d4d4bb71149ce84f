"""The sentences of a comparison: which discriminators judge images, which judge batches, and what it did to the scores.

Of classifiers, which meet no fakes, they tell the accuracy on held-out images.

Every sentence is a function of the rows. Logits that stay bitwise equal while their companions change show that images
are judged. A fall of the accuracy in mixed batches whose interval excludes zero, and that takes at least half of what
lay above chance, shows that batches are judged; at chance nothing is. Anything between says what was seen and claims
neither.
"""

from __future__ import annotations

from collections.abc import Sequence

from gannorm.comparison.conditions import Condition, text, titled
from gannorm.comparison.crossed import TITLES, Line
from gannorm.comparison.intervals import Estimate
from gannorm.comparison.quantities import ACCURACY, SCORES, Score
from gannorm.comparison.table import Row, Rows, interval, short

# What the discriminator does, in the order in which the headline tells it.
JUDGES_BATCHES = "judges batches"
DEPENDS = "lets the batch move its logits"
OPEN = "leaves the question open"
JUDGES_IMAGES = "judges images"
UNPROBED = "was not probed"

CHANCE = 0.5  # accuracy of a guess: as many real images as fakes are judged
TOLD_SCORES = [s for s in SCORES if s.name in ("inception_score", "fid", "reconstruction")]  # the rest are in tables
TOLD = 4  # effects that a sentence gives in numbers
NAMED, WIDTH = 4, 100  # conditions, and characters of their names, that the headline tells before it counts the rest


def verdict(rows: Rows, condition: str) -> str:
    """What the probes say about one condition in train mode, the mode in which D is trained. Defined here."""
    pure, fall, bitwise = (
        rows.get((condition, f"train/{name}")) for name in ("accuracy_pure", "accuracy_fall", "swap_bitwise_equal")
    )
    if fall is None and bitwise is None:
        return UNPROBED
    if bitwise is not None and bitwise.estimate.mean == 1:
        return JUDGES_IMAGES
    if pure is not None and fall is not None and fall.estimate.excludes_zero:
        above = pure.estimate.mean - CHANCE
        most = above > 0 and fall.estimate.mean >= above / 2
        return JUDGES_BATCHES if most else DEPENDS
    return OPEN if bitwise is None else DEPENDS


def headline(rows: Rows, conditions: Sequence[Condition]) -> str:
    """One sentence: the conditions by verdict, with accuracies where a verdict has one condition."""
    if conditions[0].task == "classifier":
        return _accuracy(rows, conditions)
    parts: list[str] = []
    for kind in (JUDGES_BATCHES, DEPENDS, OPEN, JUDGES_IMAGES):
        members = [c for c in conditions if verdict(rows, c.label) == kind]
        if members:
            who = "it" if parts else "the discriminator"
            numbers = _accuracies(rows, members[0].label) if len(members) == 1 else ""
            parts.append(f"with {names(members, conditions)} {who} {kind}{numbers}")
    if not parts:
        scores = [s for score in TOLD_SCORES if (s := _scores(rows, conditions, score, most=0))]
        return scores[-1] if scores else "No finished run was probed: nothing is known about batch dependence."
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def findings(rows: Rows, conditions: Sequence[Condition], crossed: Sequence[Line] = ()) -> list[str]:
    """One sentence a condition on batch dependence, then one a score on the conditions against the baseline.

    Of classifiers, the sentence on their accuracy alone. Where the conditions are a grid of crossed factors, its
    changes come first, in the place of the scores.
    """
    sentences = [_dependence(rows, c) for c in conditions if verdict(rows, c.label) != UNPROBED]
    told = list(dict.fromkeys((line.quantity, line.change) for line in crossed if line.change))
    changes = [_change([line for line in crossed if (line.quantity, line.change) == key]) for key in told]
    told_scores = [ACCURACY] if conditions[0].task == "classifier" else TOLD_SCORES
    scores = [_scores(rows, conditions, score, most=TOLD) for score in told_scores]
    return [*changes, *sentences] if changes else [*sentences, *filter(None, scores)]


def _scores(rows: Rows, conditions: Sequence[Condition], score: Score, most: int) -> str:
    """One score against the baseline, in numbers for at most `most` conditions, otherwise by verdict; "" without it."""
    name = f"{score.name}/final"
    effects = [(c, row) for c in conditions[1:] if (row := rows.get((c.label, name))) and row.effect]
    if not effects:
        return ""
    base = rows[conditions[0].label, name]
    owner, value = conditions[0].title, short(base.estimate.mean)
    whose = f"{owner}'" if owner.endswith("s") else f"{owner}'s"
    against = f"{value} with {owner}" if owner.endswith(")") else f"{whose} {value}"
    start = f"{score.title}{score.whose} against {against}"
    if len(effects) <= most:
        return f"{start}: {'; '.join(_against(c.title, row, score) for c, row in effects)}."
    words = [(c, _worth(row.effect.verdict, score)) for c, row in effects if row.effect]
    clauses = []
    for word in ("better", "worse", "no difference shown", "no interval from one seed"):
        if members := [c for c, found in words if found == word]:
            clauses.append(f"{word} with {names(members, conditions)}")
    return f"{start}: {'; '.join(clauses)}."


def _change(lines: Sequence[Line]) -> str:
    """A change of one factor at every level of the factor beside it and every setting of the others.

    "unlike BatchNorm" says that the interval of the interaction excludes zero.
    """
    where: dict[tuple[str, str], list[str]] = {}  # what is said of a level → the settings of which it is said
    for level in dict.fromkeys(level for line in lines for level in line.cells):
        for line in (line for line in lines if level in line.cells):
            estimate, effect = line.cells[level], line.differences.get(level)
            words = ["no difference shown"] * (estimate.low is not None and not estimate.excludes_zero)
            if effect and effect.difference.excludes_zero:
                words.append(f"unlike {line.baseline}")
            said = f"{interval(estimate, signed=True)} with {level}", f"{': ' * bool(words)}{', '.join(words)}"
            where.setdefault(said, []).append(line.setting)
    parts = []
    for (size, note), settings in where.items():
        at = "" if len(settings) == len(lines) else f" and {' or '.join(settings)}"
        parts.append(f"{size}{at}{note}")
    if len(parts) > TOLD:
        parts = [*parts[: TOLD - 1], f"{len(parts) - TOLD + 1} more in the table"]
    return f"{TITLES[lines[0].quantity]}, {lines[0].change}: {'; '.join(parts)}."


def _accuracy(rows: Rows, conditions: Sequence[Condition]) -> str:
    """How well classifiers learned: few of them in numbers, more by verdict."""
    found = [(c.title, row) for c in conditions if (row := rows.get((c.label, f"{ACCURACY.name}/final")))]
    if len(found) > NAMED and (by_verdict := _scores(rows, conditions, ACCURACY, most=0)):
        return by_verdict
    clauses = []
    for title, row in found[:NAMED]:
        compared = row.effect and row.effect.difference.low is not None
        worth = f", {_worth(row.effect.verdict, ACCURACY)}" if row.effect and compared else ""
        clauses.append(f"{title} {short(row.estimate.mean)}{worth}")
    return f"{ACCURACY.title}: {'; '.join(clauses) or 'no finished run was tested'}."


def _worth(verdict: str, score: Score) -> str:
    return {score.better: "better"}.get(verdict, "worse") if verdict in ("higher", "lower") else verdict


def _against(title: str, row: Row, score: Score) -> str:
    effect = row.effect
    assert effect is not None
    size = interval(*score.change(effect), signed=True)
    return f"{title} {short(row.estimate.mean)}, {size}, {_worth(effect.verdict, score)} ({effect.design})"


def _dependence(rows: Rows, condition: Condition) -> str:
    kind = verdict(rows, condition.label)
    pure, mixed, fall, swap = (
        rows.get((condition.label, f"train/{name}"))
        for name in ("accuracy_pure", "accuracy_mixed", "accuracy_fall", "swap_max_change")
    )
    clauses = []
    if pure and mixed and fall:
        spread = fall.estimate
        before, after = short(pure.estimate.mean), short(mixed.estimate.mean)
        if spread.mean == 0 and spread.low in (0, None):
            low = pure.estimate.low
            level = ", not shown to be above chance" if low is not None and low <= CHANCE else ""
            clauses.append(f"accuracy {before} in pure batches{level}, the same when its images are mixed")
        else:
            clauses.append(f"accuracy {before} in pure batches, {after} when the same images are mixed")
            word = "" if spread.excludes_zero else " (one seed)" if spread.n == 1 else ": no difference shown"
            clauses[-1] += f", {_moved(spread)}{word}"
    if kind == JUDGES_IMAGES:
        clauses.append("logits bitwise equal when only their companions change")
    elif swap:
        clauses.append(f"the most that swapping only the companions moves a logit is {interval(swap.estimate)}")
    seeds = "1 seed" if len(condition.runs) == 1 else f"{len(condition.runs)} seeds"
    judged_by = (rows.get((condition.label, f"train/{name}")) for name in ("accuracy_fall", "swap_bitwise_equal"))
    probed = min(row.estimate.n for row in judged_by if row)
    if probed < len(condition.runs):
        seeds = f"{probed} of {seeds}"
    return f"{condition.title} ({seeds}) {kind}{': ' * bool(clauses)}{'; '.join(clauses)}."


def _moved(fall: Estimate) -> str:
    return f"a fall of {interval(fall)}" if fall.mean >= 0 else f"a rise of {interval(-fall)}"


def _accuracies(rows: Rows, condition: str) -> str:
    pure, mixed = (rows.get((condition, f"train/accuracy_{kind}")) for kind in ("pure", "mixed"))
    if pure is None or mixed is None:
        return ""
    if short(pure.estimate.mean) == short(mixed.estimate.mean):
        return f": accuracy {short(pure.estimate.mean)} in pure and mixed batches alike"
    return f": accuracy {short(pure.estimate.mean)} in pure batches, {short(mixed.estimate.mean)} in mixed ones"


def names(members: Sequence[Condition], conditions: Sequence[Condition]) -> str:
    """Conditions by name; by what only they have in common, where factors are crossed: "BatchNorm (D separate)"."""
    naming = members[0].naming
    if len(naming) > 1 and len(members) > 1:
        common = {k: members[0].values[k] for k in naming if len({text(c.values[k]) for c in members}) == 1}
        sharing = [c for c in conditions if all(text(c.values[k]) == text(v) for k, v in common.items())]
        if common and len(members) == len(sharing):
            return titled(common)
    if len(members) == len(conditions) > NAMED:
        return f"all {len(members)} conditions"
    titles = [c.title for c in members]
    count = len(titles) if len(titles) <= NAMED else NAMED - 1
    while count > 1 and len(", ".join(titles[:count])) > WIDTH:
        count -= 1
    if count < len(titles):
        titles = [*titles[:count], f"{len(titles) - count} more"]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"

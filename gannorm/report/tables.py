"""The tables of the report's first page, made of a comparison's rows."""

from __future__ import annotations

from collections.abc import Iterable

from gannorm.comparison.comparison import Comparison
from gannorm.comparison.conditions import Condition
from gannorm.comparison.crossed import TITLES, Line
from gannorm.comparison.named import named_cells, named_header, named_title
from gannorm.comparison.numbers import counted
from gannorm.comparison.quantities import BY_NAME, TRAIN
from gannorm.comparison.scores import Score
from gannorm.comparison.sentences import worth
from gannorm.comparison.table import DIVERGENCE, Row
from gannorm.config.labels import text
from gannorm.report.cells import DASH, Cell, Table, of_effect, of_estimate, of_row, of_verdict

TONES = {"judges batches": "batches", "judges images": "images", "learns from batches": "images"}
COLUMNS = {  # of the table on batch dependence: quantity → heading
    "auc_pure": "AUC pure",
    "auc_pure_training": "On training images",
    "auc_mixed": "AUC mixed",
    "auc_conflict": "AUC in conflict",
    "auc_same_batch": "AUC within a mixed batch",
    "accuracy_pure": "Accuracy pure",
    "accuracy_mixed": "Accuracy mixed",
    "decisions_follow_batch": "Decisions that follow the batch",
    "leak_ratio": "Leak ratio",
    "coupling_ratio": "Coupling ratio",
}


def primary(comparison: Comparison) -> Table | None:
    """A line a comparison that the study named before its first run; None where it named none."""
    analysis = comparison.primary
    if analysis is None:
        return None
    header = [name[0].upper() + name[1:] for name in named_header(analysis)]
    table = Table(named_title(analysis), header)
    for cells in named_cells(analysis, comparison.named):
        *facts, outcome = cells
        decided = not outcome.startswith("not decided")
        table.rows.append([*map(Cell, facts), Cell(outcome, strong=decided)])
    return table


def dependence(comparison: Comparison) -> Table:
    """A line a condition: its verdict and the numbers behind it; columns that no condition has are left out."""
    names = [n for n in COLUMNS if any(comparison.row(c.label, TRAIN + n) for c in comparison.conditions)]
    header = ["Condition", "The discriminator", *(COLUMNS[n] for n in names), "Swap of the other images"]
    table = Table("Batch dependence of the discriminator in train mode", header)
    for c in comparison.conditions:
        cells = [of_row(comparison.row(c.label, TRAIN + name)) for name in names]
        note = f"{counted(len(c.runs), 'run')}, {c.divergence} diverged"
        table.rows.append([Cell(c.title, note), _kind(comparison, c), *cells, _swap(comparison, c)])
    return table


def _kind(comparison: Comparison, condition: Condition) -> Cell:
    if not condition.runs:
        return DASH
    kind = comparison.verdicts[condition.label].kind
    return Cell(kind, tone=TONES.get(kind, "plain"))


def _swap(comparison: Comparison, condition: Condition) -> Cell:
    worst, bitwise = (comparison.row(condition.label, TRAIN + n) for n in ("swap_max_change", "swap_bitwise_equal"))
    if bitwise and bitwise.estimate.mean == 1:
        return Cell("bitwise equal")
    return of_row(worst)


def scores(comparison: Comparison, listed: Iterable[Score], caption: str) -> Table:
    """A line a score and condition; without lines where nothing was scored."""
    header = ("Score", "Condition", "Last", "Against the baseline", "Verdict", "Best", "Mean level over training")
    table = Table(caption, header)
    for score in listed:
        for c in comparison.conditions:
            last = comparison.row(c.label, f"{score.name}/final")
            if last is None:
                continue
            best, level = (of_row(comparison.row(c.label, f"{score.name}/{kind}")) for kind in ("best", "level"))
            name = Cell(score.title, f"{score.better} is better")
            change = _change(comparison, c, last, score)
            verdict = of_verdict(last)
            if last.effect:
                verdict = Cell(
                    worth(last.verdict, score), last.effect.design, strong=last.verdict in ("higher", "lower")
                )
            table.rows.append([name, Cell(c.title), of_row(last), change, verdict, best, level])
    return table


def _change(comparison: Comparison, condition: Condition, row: Row, score: Score) -> Cell:
    if condition.label == comparison.baseline:
        return Cell("baseline")
    return of_estimate(*score.change(row.effect), signed=True) if row.effect else DASH


def crossed(comparison: Comparison) -> Table | None:
    """Each quantity at every setting of crossed factors, then each factor's changes; None without a full grid."""
    lines = comparison.crossed
    if not lines:
        return None
    first = lines[0].baseline
    levels = list(dict.fromkeys([first, *(level for line in lines for level in line.cells)]))
    header = ["Quantity", *levels, *(f"{level} minus {first}" for level in levels[1:])]
    table = Table("At every setting of the factors, then the change that each factor makes", header)
    for line in lines:
        rounding = BY_NAME[line.quantity].rounding
        cells = [of_estimate(line.cells.get(n), signed=bool(line.change), rounding=rounding) for n in levels]
        table.rows.append(
            [Cell(TITLES[line.quantity], line.title), *cells, *(_difference(line, n) for n in levels[1:])]
        )
    return table


def _difference(line: Line, level: str) -> Cell:
    effect = line.differences.get(level)
    if effect is None:
        return DASH
    return of_estimate(effect.difference, signed=True, strong=effect.difference.excludes_zero)


def quantities(comparison: Comparison) -> Table:
    """Every row of table.csv."""
    header = ("Quantity", "Condition", "Mean and interval", "Runs", "Difference from the baseline", "Verdict")
    table = Table("Every quantity, as in table.csv", header)
    for row in comparison.rows.values():
        title = "Share of diverged runs" if row.quantity == DIVERGENCE else BY_NAME[row.quantity].title
        cells = [Cell(title), Cell(row.condition), of_row(row), Cell(str(row.estimate.n))]
        table.rows.append([*cells, *of_effect(row)])
    return table


def runs(comparison: Comparison) -> Table:
    """The runs and the settings in which they differ."""
    keys = list(comparison.conditions[0].values)
    table = Table("Runs and the settings in which they differ", ("Run", "Condition", "Seed", "State", "Step", *keys))
    for c in comparison.conditions:
        for run in c.all_runs:
            facts = (run.name, c.title, str(run.seed), run.state, str(run.step), *(text(c.values[k]) for k in keys))
            table.rows.append([Cell(fact) for fact in facts])
    return table


def left_out(comparison: Comparison) -> Table | None:
    """The runs that are not in the comparison, with the reasons; None without any."""
    if not comparison.left_out:
        return None
    rows = [[Cell(run.name), Cell(run.reason)] for run in comparison.left_out]
    return Table("Runs left out", ("Run", "Reason"), rows)

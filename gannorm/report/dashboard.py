"""The W&B workspace of a project, and the table of a comparison beside the runs.

The panels show what training and `gannorm evaluate` log, averaged over the seeds of a condition, which is a run's
group. Building the workspace needs no account; saving it does.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gannorm.comparison.comparison import SUMMARY, Comparison
from gannorm.config import NORMS
from gannorm.errors import UserError
from gannorm.report.pages import linked_figures

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

NAME = "Images or batches?"

GAP, CONFLICT = "batch_dependence/train/auc_gap", "batch_dependence/train/auc_conflict"
# Bar chart at the top of the workspace → the metric whose last value it shows, one bar a normalizer.
BARS = {
    "Composition gap (AUC in pure batches minus mixed), by normalizer": GAP,
    "AUC in conflict batches (below 0.5: D judges batches), by normalizer": CONFLICT,
    "FID, by normalizer": "scores/running/averaged/fid",
    "Inception score, by normalizer": "scores/running/averaged/inception_score",
}
# Section → panel → what it shows over the steps. Scores are those of the averaged generator with running statistics.
# The first section needs only the callback, in any training.
LINES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Does D judge images, or batches?": {
        "AUC in pure, mixed and conflict batches": (
            "batch_dependence/train/auc_pure",
            "batch_dependence/train/auc_mixed",
            CONFLICT,
        ),
        "Composition gap": (GAP,),
        "AUC within one batch": ("batch_dependence/train/auc_same_batch",),
        "The same in eval mode": ("batch_dependence/eval/auc_gap", "batch_dependence/eval/auc_conflict"),
    },
    "Scores": {
        "Inception score": ("scores/running/averaged/inception_score",),
        "FID": ("scores/running/averaged/fid",),
    },
    "Training": {
        "Losses": ("loss/d", "loss/g"),
        "Mean logits of real and fake images": ("logit/real", "logit/fake"),
        "Gradient norms": ("gradient_norm/d", "gradient_norm/g"),
        "Images per second": ("images_per_second",),
    },
}
PICTURES = {"Samples": "samples", "Whose pixels move whose logit": "batch_dependence/coupling_train"}


def workspace(entity: str, project: str) -> Workspace:
    """The workspace of a project, built and not saved: panels by normalizer, runs grouped by condition.

    Args:
        entity: the user or team that the project belongs to.
        project: its name.

    Raises:
        UserError: the package `wandb-workspaces` is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the package's own validators
            import wandb_workspaces.reports.v2 as wr
            import wandb_workspaces.workspaces as ws
    except ImportError:
        raise UserError(
            "a dashboard needs the package wandb-workspaces: it is not installed; pip install -e '.[wandb]' in "
            "its folder."
        ) from None
    sections = [
        ws.Section(
            name=section,
            panels=[
                wr.LinePlot(title=title, x="step", y=list(metrics), groupby_aggfunc="mean", groupby_rangefunc="minmax")
                for title, metrics in panels.items()
            ],
            is_open=True,
        )
        for section, panels in LINES.items()
    ]
    bars = [
        wr.BarPlot(title=title, metrics=[metric], groupby=wr.Config(NORMS[0]), groupby_aggfunc="mean")
        for title, metric in BARS.items()
    ]
    pictures = [
        wr.MediaBrowser(title=title, media_keys=[key], num_columns=4, mode="gallery", gallery_axis="step")
        for title, key in PICTURES.items()
    ]
    sections.insert(0, ws.Section(name="By normalizer", panels=[*bars], is_open=True))
    sections.insert(2, ws.Section(name="Samples and coupling", panels=[*pictures], is_open=True))
    settings = ws.RunsetSettings(groupby=[ws.Metric("Group")])
    return ws.Workspace(entity=entity, project=project, name=NAME, sections=sections, runset_settings=settings)


def describe() -> str:
    """The sections, panels and metrics of the workspace as text; needs no key."""
    panels: dict[str, Mapping[str, tuple[str, ...]]] = {"By normalizer": {k: (metric,) for k, metric in BARS.items()}}
    first, *others = LINES
    panels |= {first: LINES[first], "Samples and coupling": {t: (key,) for t, key in PICTURES.items()}}
    panels |= {section: LINES[section] for section in others}
    lines = []
    for section, charts in panels.items():
        lines += [section, *(f"  {title}: {', '.join(metrics)}" for title, metrics in charts.items())]
    return "\n".join([f"workspace {NAME!r}, runs grouped by condition", *lines])


def save(project: str) -> str:
    """Save the workspace of "ENTITY/PROJECT", or of a project of the account that the key belongs to.

    Returns:
        Its address.

    Raises:
        UserError: W&B cannot be reached or refuses; the package is not installed.
    """
    import wandb

    entity, _, name = project.rpartition("/")
    try:
        view = workspace(entity or str(wandb.Api().default_entity), name)
        view.save()
        return str(view.url)
    except UserError:
        raise
    except Exception as error:  # a refused key, no network, an unknown project
        line = " ".join(str(error).split())
        raise UserError(f"the dashboard of {project} could not be saved: {type(error).__name__}: {line}") from None


def record(comparison: Comparison, output: Path) -> dict[str, Any]:
    """What a comparison logs: table.csv, a line a condition, and the figures, as W&B objects.

    Args:
        comparison: as it was written.
        output: the report's folder.
    """
    import wandb

    rows = [row.flat() for row in comparison.rows.values()]
    quantities = [q for q in SUMMARY if any(name == q for _, name in comparison.rows)]
    conditions = []
    for c in comparison.conditions:
        rows_of_condition = [comparison.row(c.label, q) for q in quantities]
        bounds = [row.estimate.bounds if row else (None,) * 3 for row in rows_of_condition]
        conditions.append([c.label, len(c.runs), len(c.diverged), *(number for triple in bounds for number in triple)])
    heads = [f"{SUMMARY[q]}{part}" for q in quantities for part in ("", " low", " high")]
    pictures = [file for file in linked_figures(output) if file.suffix == ".png"]
    return {
        "comparison/table": wandb.Table(list(rows[0]), [list(row.values()) for row in rows], allow_mixed_types=True),
        "comparison/conditions": wandb.Table(
            ["condition", "seeds", "diverged", *heads], conditions, allow_mixed_types=True
        ),
        **{f"figures/{file.stem}": wandb.Image(str(file)) for file in pictures},
    }

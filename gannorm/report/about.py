"""The facts at the top of a page: study, question, data set, date and command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date as day

from gannorm.comparison.comparison import Comparison
from gannorm.comparison.runs import Run
from gannorm.config.labels import text


@dataclass(frozen=True)
class About:
    """The origin of a report; an empty text is not displayed.

    Attributes:
        study: the names of the studies.
        question: of the study.
        data: the images that were trained on.
        date: on which the report was written, 2026-01-31.
        command: that wrote it.
    """

    study: str = ""
    question: str = ""
    data: str = ""
    date: str = ""
    command: str = ""

    @property
    def facts(self) -> list[tuple[str, str]]:
        """(name, value) of each known fact."""
        pairs = (
            ("Study", self.study),
            ("Question", self.question),
            ("Data", self.data),
            ("Date", self.date),
            ("Command", self.command),
        )
        return [pair for pair in pairs if pair[1]]


def about(comparison: Comparison, question: str = "", command: str = "", date: str = "") -> About:
    """The facts about a comparison; the default date is today."""
    runs = [run for c in comparison.conditions for run in c.all_runs]
    return About(
        _values(runs, "study"), question, ", ".join(dict.fromkeys(map(_data, runs))), date or f"{day.today()}", command
    )


def _values(runs: Sequence[Run], key: str) -> str:
    return ", ".join(dict.fromkeys(text(run.config[key]) for run in runs if run.config.get(key)))


def _data(run: Run) -> str:
    """ "digits, 16×16", or a folder's own name."""
    name, size = run.config.get("data.name", "unknown"), run.config.get("data.image_size")
    root = run.config.get("data.root")
    if name == "folder" and isinstance(root, str):
        name = f"images of the folder {root}"
    return f"{text(name)}, {size}×{size}" if size else text(name)

"""Warnings and errors about the files of a folder that give no image.

Files that were never meant to be read here are counted. Files that should have been images are named one by one, and
stop the run unless they may be skipped.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from gannorm.data.decoding import TOO_SMALL
from gannorm.errors import UserError, printable

NAMED = 20  # bad files that a message names; the cache's index lists them all
SUFFIXES_NAMED = 8  # suffixes that a message counts, of each reason
LINK = "a link that leads out of the folder"
OPTIONS = {  # what makes a bad file a good one
    LINK: "follow them with --data.follow_links true",
    TOO_SMALL: "enlarge them with --data.enlarge true or choose a smaller --data.image_size",
}


def counted(files: Mapping[str, str]) -> str:
    """Files by reason and suffix, the most frequent first.

    Args:
        files: name → reason for not using it.

    >>> counted({"a.avif": "no image suffix", "b/c.AVIF": "no image suffix", ".d": "hidden"})
    '3 files left out: .avif 2 (no image suffix); no suffix 1 (hidden)'
    """
    suffixes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, reason in files.items():
        suffix = printable(os.path.splitext(name)[1].lower())[:16]
        suffixes[reason][suffix or "no suffix"] += 1
    reasons = []
    for reason, counts in suffixes.items():
        parts = [f"{suffix} {count}" for suffix, count in counts.most_common(SUFFIXES_NAMED)]
        rest = counts.total() - sum(count for _, count in counts.most_common(SUFFIXES_NAMED))
        if rest:
            parts.append(f"others {rest}")
        reasons.append(f"{', '.join(parts)} ({reason})")
    noun = "file" if len(files) == 1 else "files"
    return f"{len(files)} {noun} left out: {'; '.join(reasons)}"


def remedies(bad: Mapping[str, str]) -> list[str]:
    """The options by which some of these files could be used."""
    return [option for words, option in OPTIONS.items() if any(words in reason for reason in bad.values())]


def report_bad(root: Path, bad: Mapping[str, str], total: int, skip_bad: bool) -> None:
    """Name the bad ones among a folder's files: a warning if they may be skipped, otherwise an error.

    Args:
        root: the folder.
        bad: name → reason.
        total: how many files there are, the bad ones among them.
        skip_bad: whether they may be skipped; not if they are all there is.
    """
    if not bad:
        return
    listed = "; ".join(f"{name!r}: {reason}" for name, reason in list(bad.items())[:NAMED])
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    count = f"{len(bad)} of {total} images in {root}"
    if skip_bad and len(bad) < total:
        warnings.warn(f"skipped {count} ({listed}{more}).", stacklevel=2)
        return
    choices = ["mend or remove them", *remedies(bad)]
    if not skip_bad and len(bad) < total:
        choices.append("leave them out with --data.skip_bad true")
    raise UserError(
        f"every image must be readable and large enough: {count} are not ({listed}{more}); {', or '.join(choices)}."
    )

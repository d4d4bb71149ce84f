"""For the pages alone: the doctests that end a docstring are its examples, which mkdocstrings shows as code."""

from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Give the doctests of each docstring the heading that griffe knows them by."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        lines = obj.docstring.value.split("\n")
        starts = [number for number, line in enumerate(lines) if line.startswith(">>>")]
        if starts:
            examples = ["Examples:", *(f"    {line}" for line in lines[starts[0] :])]
            obj.docstring.value = "\n".join([*lines[: starts[0]], *examples])

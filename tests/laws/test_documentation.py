"""docs/scores.md: its examples run."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "scores.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:all values of the first")  # of untrained generators
def test_the_examples_of_the_page_run_in_their_order():
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)

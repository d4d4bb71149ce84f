"""`gannorm compare` without arguments takes the newest study."""

import os
from pathlib import Path

import pytest

from gannorm.commands.compare import newest_study
from gannorm.errors import UserError


def test_the_newest_study_is_the_one_written_last(tmp_path):
    for age, name in ((30, "old/a_0"), (10, "new/a_0"), (40, "new/b_0")):
        file = tmp_path / name / "status.json"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1e9 - age, 1e9 - age))
    assert newest_study(tmp_path) == str(tmp_path / "new")
    with pytest.raises(UserError, match="there are none in nowhere"):
        newest_study(Path("nowhere"))

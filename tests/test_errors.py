"""Errors are one line; a failed allocation is known from every source, and nothing else is taken for one."""

import pytest
import torch

from gannorm.errors import UserError, out_of_memory, printable, require_positive


class UnknownName(UserError, KeyError):
    pass


def test_an_error_prints_its_line_and_nothing_else():
    assert str(UserError("`a` must be 1: got 2.")) == "`a` must be 1: got 2."
    assert str(UnknownName("`a` must be 1: got 2.")) == "`a` must be 1: got 2."  # a KeyError alone would quote it
    assert str(UserError()) == ""


def test_a_count_below_one_is_called_by_its_keyword():
    require_positive(width=1, images=5)
    with pytest.raises(UserError, match=r"^`images` must be at least 1: got 0\.$"):
        require_positive(width=1, images=0)


@pytest.mark.parametrize(
    "allocate",
    [lambda: torch.empty(2**60), lambda: torch.empty(2**62, 2**62), lambda: bytearray(2**62)],
    ids=["too many bytes", "beyond 64 bits", "python's"],
)
def test_a_failed_allocation_is_known(allocate):
    with pytest.raises(Exception) as failed:
        allocate()
    reason = out_of_memory(failed.value)
    assert reason and "\n" not in reason


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), TypeError("int expected"), OSError("disk")])
def test_other_errors_are_no_failed_allocations(error):
    assert out_of_memory(error) == ""


def test_control_characters_do_not_reach_a_terminal():
    assert printable("a\tb\n c") == "a b c"
    assert printable("\x1b]0;title\x07") == "?]0;title?"

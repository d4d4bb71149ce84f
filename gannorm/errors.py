"""Exceptions for people, in one line: the command line prints them without a traceback, unlike a bug."""


class UserError(ValueError):
    """What must hold, what arrived, what to do: one line, for a person.

    The command line prints the line and exits with status 2; any other exception is a bug and keeps its traceback.
    """

    def __str__(self) -> str:  # KeyError, a base of some subclasses, would print the quoted repr.
        return str(self.args[0]) if self.args else ""


def require_positive(**numbers: int) -> None:
    """Raises UserError for a number below 1, such as a width or a count of images, named by its keyword."""
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"`{name}` must be at least 1: got {number}.")


class OutOfMemory(RuntimeError):
    """The machine's memory did not hold what a run needs. The command line prints the line and exits with status 1.

    Not a UserError: another process may have used the memory, and the other runs of a study may fit.
    """


OVERFLOWS = ("Overflow when unpacking long", "multiplication overflow", "calculation overflowed")  # torch, of sizes


def out_of_memory(error: BaseException) -> str:
    """What a failed allocation says of itself: Python's, a GPU's, or the CPU's, which torch gives no type; else ""."""
    if isinstance(error, TypeError | RuntimeError) and any(words in str(error) for words in OVERFLOWS):
        return "a size is beyond 64 bits"
    on_cpu = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    if not (on_cpu or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):
        return ""
    return printable(str(error).split("DefaultCPUAllocator: ")[-1])[:160] or type(error).__name__


def printable(text: str) -> str:
    """One line without control characters: names come from third-party files and go to terminals and pages.

    >>> printable("run \\x1b[2J\\u202e")
    'run ?[2J?'
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))

"""The one exception for a caller's mistake, so that the command line can tell it from a bug."""


class UserError(ValueError):
    """What must hold, what arrived, what to do: one line, for a person.

    The command line prints the line and exits with status 2; any other exception is a bug and keeps its traceback.
    """

    def __str__(self) -> str:  # KeyError, a base of some subclasses, would print the quoted repr.
        return str(self.args[0]) if self.args else ""

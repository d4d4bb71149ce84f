"""Run code on modules and leave everything as it was: modules, the objects that hold them, every random state."""

from gannorm.isolate.isolated import (
    Isolated,
    copy_of,
    eager,
    hooked,
    isolated,
    modules_in,
    switched,
)

__all__ = [
    "Isolated",
    "copy_of",
    "eager",
    "hooked",
    "isolated",
    "modules_in",
    "switched",
]

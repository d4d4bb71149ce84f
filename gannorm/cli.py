"""The `gannorm` command: subcommands by name, and errors as one line. What they do is in `gannorm.commands`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import gannorm
from gannorm.commands import (
    check,
    compare,
    dashboard,
    describe,
    evaluate,
    extractor,
    probe,
    sample,
    study,
    train,
)
from gannorm.commands.inputs.arguments import import_module, imported, take_imports, underscored
from gannorm.errors import OutOfMemory, UserError, out_of_memory, printable
from gannorm.files import leave, require_streams
from gannorm.registry import choices

COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "check": check,
    "describe": describe,
    "probe": probe,
    "evaluate": evaluate,
    "extractor": extractor,
    "sample": sample,
    "study": study,
    "compare": compare,
    "dashboard": dashboard,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. Exit status: 0; 2 after a usage error, 1 out of memory (one line each); 130 Ctrl-C."""
    arguments = underscored(sys.argv[1:] if argv is None else argv)
    name = ""
    require_streams()
    warnings.showwarning = _show_warning
    try:
        sys.path.insert(0, str(Path.cwd()))  # --import and --module name the user's own modules, as `python` would
        imported[:] = take_imports(arguments)
        for module in imported:
            import_module(module)
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(_help())
            return 0
        if arguments[0] == "--print_completion":
            from gannorm.commands.completion import completion

            print(completion(" ".join(arguments[1:]), COMMANDS))
            return 0
        if arguments[0] in ("--version", "version"):
            print(gannorm.__version__)
            return 0
        name = arguments.pop(0)
        if name not in COMMANDS:
            raise UserError(f"unknown command {name!r}: {choices(name, COMMANDS)}")
        return COMMANDS[name].run(arguments)
    except (UserError, RuntimeError, MemoryError, TypeError) as error:
        if isinstance(error, (UserError, OutOfMemory)):
            line = printable(str(error))
        elif reason := out_of_memory(error):
            line = f"networks and batches must fit into memory: they do not; make them smaller ({reason})."
        else:
            raise
        print(f"{_program(name)}: {line}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print(f"{_program(name)}: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` for example, has closed the pipe
        leave()  # otherwise python prints an error at exit
        return 141


def _program(name: str) -> str:
    return f"gannorm {name}" if name else "gannorm"


def _help() -> str:
    lines = [f"  {name:<10} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gannorm [--import MODULE] COMMAND …",
            "",
            "Does my discriminator judge images, or batches?",
            "",
            *lines,
            "",
            "  --import MODULE            import your own module first, for example one that registers a normalizer",
            "  --print_completion SHELL   print a script with which bash or zsh completes the flags",
            "  --version                  print the version",
            "",
            "`gannorm COMMAND --help` lists the arguments of a command. In the name of a flag - and _ are the same.",
        ]
    )


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning as one line, without the source line that Python adds."""
    print(f"warning: {printable(str(message))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Coverage-guided fuzzing of what reads strangers' files: configs, checkpoints, run directories.

    python tests/fuzz.py run_directory --seconds 60
    python tests/fuzz.py all --seconds 10    # as .ci/run does: an input's first byte chooses its reader

Needs atheris (`pip install atheris`; there are wheels for Linux on x86-64). Ends with status 0 when the time is up, or
at the first input that raises anything but a UserError, which it writes into the present folder as crash-….
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", choices=["config", "checkpoint", "run_directory", "all"])
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("fuzz.py needs atheris: install it with `pip install atheris` (Linux on x86-64).")

    sys.path.insert(0, str(ROOT / "tests"))
    # Ours and the parsers below it; instrumenting torch or jsonargparse takes minutes and tells little.
    with atheris.instrument_imports(include=["gannorm", "yaml", "json", "zipfile"]):
        from support import fuzz_targets as targets

    names = list(targets.TARGETS) if options.target == "all" else [options.target]
    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    for index, name in enumerate(names):
        for number, content in enumerate(targets.seeds(name)):
            chosen = bytes([index]) if options.target == "all" else b""
            (corpus / f"{name}_{number}").write_bytes(chosen + content)

    def read(data: bytes) -> None:
        if options.target != "all":
            targets.TARGETS[options.target](data)
        elif data:
            targets.TARGETS[names[data[0] % len(names)]](data[1:])

    limits = [f"-max_total_time={options.seconds}", "-max_len=65536", "-timeout=60", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], lambda data: read(bytes(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()

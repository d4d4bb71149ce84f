"""The house: the direction of imports, where heavy libraries belong, a test for each source file, no long files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gannorm

ROOT = Path(gannorm.__file__).parent
TESTS = Path(__file__).parent
# A module imports only from lines above its own. On the first two lines, the foundations, also from its left.
FOUNDATIONS = [
    "errors registry files recipes verdict config rundir",
    "seeds isolate arithmetic distributed wandb_run",
]
ROOMS = [
    "normalizers losses data probes",
    "models",
    "training evaluation comparison",
    "report",
    "studies",
    "pytest_plugin",
    "commands",
    "cli",
    "__main__",
]
LINES = [[name] for line in FOUNDATIONS for name in line.split()] + [line.split() for line in ROOMS]
LEVEL = {name: level for level, names in enumerate(LINES) for name in names}
WITHOUT_TORCH = {"comparison", "report", "studies", *FOUNDATIONS[0].split()}
ONLY_IN = {
    "lightning": {"data", "training", "distributed"},
    "wandb": {"wandb_run", "report"},
    "torch_fidelity": {"evaluation"},
    "torch": set(LEVEL) - WITHOUT_TORCH,
}
MOST_LINES = {ROOT / "training" / "gan.py": 260}  # of any other file 400
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")
# These are about no single source file: laws that cross rooms, real faults, and what is outside the package.
WITHOUT_SOURCE = {"laws", "faults", "support"}
OUTSIDE_THE_PACKAGE = {f"test_{name}.py" for name in ("architecture", "benchmarks", "documentation", "examples")}


def part_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            yield node.module
            if node.module == "gannorm":
                yield from (f"gannorm.{alias.name}" for alias in node.names)


def violations(path, modules):
    here = part_of(path)
    for module in modules:
        top, *rest = module.split(".")
        other = rest[0] if top == "gannorm" and rest and rest[0] in LEVEL else here
        if other != here and LEVEL[other] >= LEVEL[here]:
            yield f"{here} imports {module}"
        if top in ONLY_IN and here not in ONLY_IN[top]:
            yield f"{here} imports {module}"


def place_of_test(path):
    parts = path.relative_to(ROOT)
    return TESTS / parts.parent / f"test_{parts.stem.strip('_')}.py"


def needs_test(path):
    """Not a file without functions, which holds data, nor a package's front, which hands names on."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return bool(functions) and path.name != "__init__.py"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upward(path):
    assert part_of(path) in LEVEL, f"{path} belongs to no layer: add it to LAYERS"
    assert list(violations(path, imported(path))) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_source_file_has_its_test(path):
    test = place_of_test(path)
    assert test.is_file() or not needs_test(path), f"{path} has no test: write {test}"


def test_no_file_is_long():
    """Of the package, its tests, and what is outside the package."""
    folders = [ROOT, *(TESTS.parent / name for name in ("tests", "scripts", "benchmarks", "examples"))]
    lengths = {path: path.read_text().count("\n") for folder in folders for path in folder.rglob("*.py")}
    long = [f"{path}: {lines}" for path, lines in lengths.items() if lines > MOST_LINES.get(path, 400)]
    assert long == [], "divide them by subject"


def test_each_test_is_at_the_place_of_its_source_file():
    mirrored = {place_of_test(path) for path in ROOT.rglob("*.py")} | {TESTS / name for name in OUTSIDE_THE_PACKAGE}
    tests = [t for t in TESTS.rglob("test_*.py") if t.relative_to(TESTS).parts[0] not in WITHOUT_SOURCE]
    assert [str(t) for t in tests if t not in mirrored] == []


def test_a_violation_is_caught():
    probe, study = ROOT / "probes" / "x.py", ROOT / "studies" / "x.py"
    assert list(violations(probe, ["gannorm.models.discriminator"])) == ["probes imports gannorm.models.discriminator"]
    assert list(violations(study, ["torch.nn"])) == ["studies imports torch.nn"]
    assert list(violations(probe, ["gannorm.isolate", "torch"])) == []
    assert list(violations(probe, ["gannorm.losses"])) == ["probes imports gannorm.losses"]  # the same line
    assert list(violations(ROOT / "files.py", ["gannorm.config"])) == ["files imports gannorm.config"]  # to its right
    assert list(violations(ROOT / "rundir.py", ["gannorm.files"])) == []


@pytest.mark.parametrize(
    "module,absent",
    [
        ("gannorm.cli", {"torch", "lightning", "wandb", "jsonargparse", "matplotlib"}),
        ("gannorm.comparison.analysis", {"torch", "lightning", "wandb", "matplotlib", "jinja2", "pandas"}),
        ("gannorm.report.compare", {"torch", "lightning", "wandb"}),
        ("gannorm.probes", {"lightning", "wandb", "torch_fidelity", "matplotlib"}),
        ("gannorm.evaluation", {"lightning", "wandb", "torch_fidelity"}),
        ("gannorm.models", {"lightning", "wandb"}),
    ],
)
def test_a_part_can_be_used_without_the_libraries_of_the_others(module, absent):
    script = f"import sys, {module}; print(*sorted({absent!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""

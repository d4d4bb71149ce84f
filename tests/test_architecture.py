"""Import direction: a module imports only from layers above its own, and heavy libraries only where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gannorm

ROOT = Path(gannorm.__file__).parent
LAYERS = [
    {"errors", "registry", "files", "locks", "dotted", "schema", "recipes", "hints", "verdict", "config", "labels"}
    | {"wandb_run", "rundir", "seeds", "state", "isolate", "distributed", "terminal"},
    {"normalizers", "losses", "data", "probes"},
    {"models"},
    {"training", "evaluation", "comparison"},
    {"report"},
    {"studies"},
    {"arguments", "pytest_plugin", "weights"},
    {"subjects"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ONLY_IN = {
    "lightning": {"data", "training", "distributed", "commands"},
    "wandb": {"wandb_run", "report"},
    "torch_fidelity": {"evaluation"},
    "torch": set(LEVEL)
    - {"studies", "comparison", "report", "errors", "registry", "files", "config", "verdict", "rundir", "terminal"},
}
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


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
        # The foundations may use one another; the parts of every other layer may not.
        if other != here and LEVEL[other] >= LEVEL[here] > 0:
            yield f"{here} imports {module}"
        if top in ONLY_IN and here not in ONLY_IN[top]:
            yield f"{here} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upward(path):
    assert part_of(path) in LEVEL, f"{path} belongs to no layer: add it to LAYERS"
    assert list(violations(path, imported(path))) == []


def test_a_violation_is_caught():
    probe, study = ROOT / "probes" / "x.py", ROOT / "studies" / "x.py"
    assert list(violations(probe, ["gannorm.models.discriminator"])) == ["probes imports gannorm.models.discriminator"]
    assert list(violations(study, ["torch.nn"])) == ["studies imports torch.nn"]
    assert list(violations(probe, ["gannorm.isolate", "torch"])) == []


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

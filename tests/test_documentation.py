"""The pages are true: each snippet runs, each command line parses, each link leads somewhere, each key is logged."""

import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import gannorm
from gannorm.cli import COMMANDS
from gannorm.commands.inputs.arguments import take_imports, take_resume, take_switch, train_config
from gannorm.files import dump_yaml

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
WRITTEN = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "results").glob("*/README.md"))]
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
slow = pytest.mark.slow


def snippets(page):
    """The python of a page, in order, without what it includes from examples/, which have their own tests."""
    return [code for kind, code in FENCED.findall(page.read_text()) if kind == "python" and not INCLUDED.search(code)]


def commands(page):
    """Every `gannorm …` of a page: indented lines, and text between backticks."""
    text = re.sub(r"\\\n *", " ", FENCED.sub("", page.read_text()))
    lines = [line for line in text.split("\n") if line.startswith("    ")]
    inline = re.findall(r"`(gannorm [^`]+)`", re.sub(r"\n(?!\n)", " ", "\n".join(set(text.split("\n")) - set(lines))))
    return [match[1].strip() for line in lines if (match := re.match(r" +(gannorm \S.*?)(?=   |  #|$)", line))] + inline


# -- snippets ---------------------------------------------------------------------------------------------------------

SLOW = ("docs/study.md",)  # it trains
WITH_PYTHON = [name for name, page in zip(NAMES, PAGES, strict=True) if snippets(page) and name != "README.md"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow) if name in SLOW else name for name in WITH_PYTHON])
def test_the_snippets_of_a_page_run_one_after_another(name, tmp_path, monkeypatch, assert_batch_invariant):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {"__name__": "snippet"}
    for code in snippets(ROOT / name):
        exec(compile(code, name, "exec"), namespace)
    for test in [value for key, value in namespace.items() if key.startswith("test_")]:
        test(assert_batch_invariant)


def test_the_readme_shows_the_first_example_and_the_verdict_that_it_prints(capsys):
    example = (ROOT / "examples" / "first_verdict.py").read_text()
    (code,) = snippets(ROOT / "README.md")
    assert code == example.partition('"""\n\n')[2]
    with torch.random.fork_rng():
        exec(compile(example, "first_verdict.py", "exec"), {})
    printed = capsys.readouterr().out
    (output,) = [text for kind, text in FENCED.findall((ROOT / "README.md").read_text()) if kind == "text"]
    kind = printed.partition(":")[0]  # the digits after it are the machine's
    assert kind == output.partition(":")[0] == "judges batches"
    rows = [[line.split()[0] for line in text.split("\n") if line.startswith("  ")] for text in (printed, output)]
    assert rows[0][: len(rows[1])] == rows[1]


def test_the_notebook_runs_from_its_first_cell_to_its_last(capsys):
    cells = json.loads((ROOT / "examples" / "first_verdict.ipynb").read_text())["cells"]
    namespace = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "judges batches" in printed and "judges images" in printed and "BatchNorm1d" in printed


def test_every_included_example_has_a_test_of_its_own():
    included = {name for page in PAGES for name in INCLUDED.findall(page.read_text())}
    tests = "".join((ROOT / "tests" / name).read_text() for name in ("test_examples.py", "test_documentation.py"))
    assert included == {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}
    assert all(Path(name).stem in tests for name in included)


# -- command lines ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the pages take for granted: a checkout's configs, a run, a module with a normalizer."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "configs").symlink_to(ROOT / "configs")
    for run in {run for page in PAGES for run in re.findall(r"(runs/[\w.-]+/[\w.-]+)", page.read_text())}:
        (folder / run).mkdir(parents=True, exist_ok=True)
        (folder / run / "config.yaml").write_text(dump_yaml(train_config(["--config", "digits"]).to_dict()))
    (module,) = [code for page in PAGES for code in snippets(page) if code.startswith("# my_norms.py")]
    (folder / "my_norms.py").write_text(module)
    return folder


@pytest.mark.parametrize("name", [name for name, page in zip(NAMES, PAGES, strict=True) if commands(page)])
def test_every_command_line_of_a_page_parses(name, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.delitem(sys.modules, "my_norms", raising=False)  # imported again, it registers again
    for line in commands(ROOT / name):
        try:
            parse_line(line)
        except Exception as error:
            raise AssertionError(f"{name}: {line}: {error}") from error


def parse_line(line):
    """As the command does, up to where it would begin to work."""
    from gannorm.commands.inputs.arguments import parse

    arguments = shlex.split(line, comments=True)[1:]
    for module in take_imports(arguments):
        import_module(module)
    command = arguments.pop(0)
    if command.startswith("--"):
        assert command in ("--help", "--version", "--print_completion")
        return
    parser = COMMANDS[command].parser()
    if not arguments or arguments[0] == "--help":
        return
    if command in ("train", "describe"):
        if command == "describe" and not arguments[0].startswith("-"):
            arguments.pop(0)
        take_switch(arguments, "--print_config")
        take_switch(arguments, "--variance")  # of a run
        take_resume(arguments)
        train_config(arguments, command)
        return
    options = parse(parser, arguments)
    if command == "study" and "STUDY" not in options.file:
        from gannorm.recipes import locate
        from gannorm.studies.plan import plan

        assert plan(locate(options.file), Path("planned")).runs


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", WRITTEN, ids=[str(page.relative_to(ROOT)) for page in WRITTEN])
def test_every_relative_link_and_picture_exists(page):
    text = re.sub(r"`[^`]*`", "", FENCED.sub("", page.read_text()))
    targets = set(re.findall(r"\]\(([^)#\s]+)", text))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing, f"{page.name} links to {missing}"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == set(re.findall(r"([\w-]+\.md)", text))


def test_every_recipe_and_every_study_is_in_their_page():
    text = (ROOT / "docs" / "recipes.md").read_text()
    files = [*(ROOT / "gannorm" / "recipes").glob("*.yaml"), *(ROOT / "configs" / "studies").glob("*.yaml")]
    assert [file.stem for file in files if f"| `{file.stem}` |" not in text] == []


def test_every_folder_of_results_is_in_their_page():
    text = (ROOT / "docs" / "results.md").read_text()
    assert all(f"results/{path.parent.name}" in text for path in (ROOT / "results").glob("*/README.md"))


# -- the glossary -----------------------------------------------------------------------------------------------------

SHARES = ("pure", "share_0.75", "mixed", "share_0.25", "conflict")


def glossary():
    """prefix → the keys that docs/metrics.md lists below it, and of these the ones that take cost="full"."""
    keys, full, prefix = {}, set(), ""
    for line in (ROOT / "docs" / "metrics.md").read_text().split("\n"):
        if line.startswith("#"):
            prefix = line.strip("# ")
        if match := re.search(r"Prefix `([^`]+)/`", line):
            prefix = match[1]
        row = re.match(r"\| `([^`]+)`( \*)? \| (interval |error |)\| .* \|.*\|$", line)
        if row is None:
            continue
        shares = SHARES[1:] if "<other share>" in row[1] else SHARES if "<share>" in row[1] else ("",)
        ends = {"interval": ("", "_low", "_high"), "error": ("", "_error"), "": ("",)}[row[3].strip()]
        names = {re.sub("<.*>", share, row[1]) + end for share in shares for end in ends}
        keys.setdefault(prefix, set()).update(names)
        full |= names if row[2] else set()
    return keys, full


@pytest.mark.parametrize("cost", ["quick", "full"])
def test_the_glossary_lists_the_keys_of_a_measurement(cost):
    import gannorm

    torch.manual_seed(0)
    d = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    real, fake = torch.randn(64, 4) + 1, torch.randn(64, 4)
    keys, full = glossary()
    expected = keys["batch_dependence/<mode>"] - {"auc_pure_training"}
    result = gannorm.batch_invariance(d, real, fake, batch_size=16, cost=cost, one_own=True)
    assert set(result.metrics()) == (expected if cost == "full" else expected - full)


@slow
def test_the_glossary_lists_the_keys_that_a_run_logs(configure):
    from gannorm.config import TrainConfig
    from gannorm.training import train

    flags = {
        "steps": 2,
        "probe_every": 2,
        "probe_images": 64,
        "probe_one_own": "true",
        "optimization_every": 1,
        "optimization_budget": 1,
        "model.discriminator.activation": "sigmoid",  # whose outputs can be at an end of their range
        "model.generator.activation": "tanh",
    }
    run = train(TrainConfig.from_dict(configure(*(text for k, v in flags.items() for text in (f"--{k}", str(v))))))
    logged = {key for record in run.metrics() for key in record} - {"step"}
    keys, _ = glossary()
    names = {"<mode>": ("train", "eval"), "<network>": ("discriminator", "generator")}
    listed = set()
    for prefix, below in keys.items():
        if prefix == "Training":
            listed |= below
        elif not prefix.startswith("Scores"):
            (placeholder,) = re.findall("<.*>", prefix) or [""]
            filled = [prefix.replace(placeholder, name) for name in names[placeholder]] if placeholder else [prefix]
            listed |= {f"{head}/{key}" for head in filled for key in below}
    of_a_discriminator = {f"optimization/generator/majority_by_{kind}" for kind in ("activation", "gradient")}
    assert logged == listed - of_a_discriminator


def test_the_glossary_lists_the_scores():
    from dataclasses import fields

    from gannorm.evaluation.scores import Scores

    assert glossary()[0]["Scores"] == {f.name for f in fields(Scores)} - {"protocol", "seconds_by_part"}


def test_the_readme_lists_every_choice():
    from gannorm.losses import LOSSES, PENALTIES
    from gannorm.models import INITIALIZERS
    from gannorm.models.discriminator import MINIBATCH
    from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS

    text = (ROOT / "README.md").read_text()
    for title, registries in {
        "activation normalizer": [NORMALIZERS],
        "weight normalizer": [WEIGHT_NORMALIZERS],
        "deliberate coupling": [MINIBATCH],
        "loss, penalty": [LOSSES, PENALTIES],
        "initialization": [INITIALIZERS],
    }.items():
        (row,) = re.findall(rf"^\| {title} \| .* \| (.*) \|$", text, re.MULTILINE)
        ours = [name for registry in registries for name in registry]
        assert set(re.split("[,;] ", row)) == set(ours), title


def test_the_version_is_the_same_everywhere():
    version = gannorm.__version__
    (date,) = re.findall(rf"^## \[{version}\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert f"version: {version}\ndate-released: {date}\n" in (ROOT / "CITATION.cff").read_text()
    assert 'version = { attr = "gannorm.__version__" }' in (ROOT / "pyproject.toml").read_text()


def test_the_description_on_an_index_page_has_no_picture_and_no_link_into_the_repository():
    namespace = {"__name__": "setup", "__file__": str(ROOT / "setup.py")}
    exec((ROOT / "setup.py").read_text(), namespace)
    readme = (ROOT / "README.md").read_text()
    text = namespace["description"](readme)
    assert "](results/" in readme and "![" in readme and "<!--" in readme
    assert not re.search(r"!\[|\]\((?!https?:)|<!--", text)
    assert FENCED.findall(text) == FENCED.findall(readme)

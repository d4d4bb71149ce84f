"""Package, pages, examples and scripts keep to one word for one thing and to plain English: what they must not use."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import gannorm

PACKAGE = Path(gannorm.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(file for suffix in ("py", "html", "yaml") for file in PACKAGE.rglob(f"*.{suffix}"))
# What a person reads beside the package.
PAGES = sorted(
    file
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "results/*/README.md",
        "examples/*.py",
        "examples/*.ipynb",
        "scripts/**/*.py",
        "scripts/*.sh",
        "benchmarks/**/*.py",
        "configs/**/*.yaml",
    )
    for file in ROOT.glob(pattern)
)

# Forbidden in comments, texts and pages → the word to use.
WORDS = {
    r"\bcompany\b": "the other images of the batch",
    r"\bfalls?\b(?! back)": "decreases; of batches, the composition gap",
    r"\b(go|goes|going|gone|went) on\b": "continue",
    r"\banew\b": "again",
    r"\bapart\b(?! from)": "separately; tell apart: distinguish, separate",
    r"\b(told|tells?)\b": "reports, shows",
    r"\bcallers?'s? mistake|callers_mistake": "usage error",
    r"\bstrangers?\b": "third-party",
    r"\b(a|an|the|no|each|every|this|our|good) judge\b|\bjudge's\b": "verdict, evaluator or discriminator",
    r"\b(leaks|leaked|leaking)\b|\bleak\b(?![ _]ratio|:|['\"]?$)": "depends on the batch; only the leak ratio leaks",
    r"\bwhy[_/]": "optimization",
}
FORMER = {"train_config.py", "renamed.py"}  # the tables of keys of earlier versions hold the former words
NAMES = {"found", "told", "said", "shown", "its", "theirs"}  # no variable has such a name


def prose(file: Path) -> list[tuple[int, str]]:
    """(line number, text) of a file's prose: comments and strings of Python, every line of other files."""
    text = file.read_text("utf-8")
    if file.name == "CHANGELOG.md":
        text = re.sub(r"`[^`\n]*`", "``", text)  # the names that keys had
    if file.suffix != ".py":
        return list(enumerate(text.splitlines(), start=1))
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type in kinds]
    return [(t.start[0] + i, line) for t in tokens for i, line in enumerate(t.string.splitlines())]


def forbidden_words(file: Path) -> list[str]:
    if file.name in FORMER:
        return []
    return [
        f"{file.name}:{number}: {match[0]!r}: say {word}"
        for number, line in prose(file)
        for pattern, word in WORDS.items()
        if (match := re.search(pattern, line, re.IGNORECASE))
    ]


def clever_lines(source: str) -> list[str]:
    """Names and constructions that a reader has to decode."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.arg):
            name = node.id if isinstance(node, ast.Name) else node.arg
            if name in NAMES:
                faults.append(f"line {node.lineno}: a variable named {name}: name the thing")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for side, other in ((node.left, node.right), (node.right, node.left)):
                if isinstance(other, ast.List | ast.Constant) and _is_truth(side) and not _is_number(other):
                    faults.append(f"line {node.lineno}: a text or list times a truth value: write an if")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.IfExp):
            faults.append(f"line {node.lineno}: a conditional in call position: write an if")
        if isinstance(node, ast.JoinedStr) and any(
            isinstance(inner, ast.JoinedStr)
            for value in node.values
            if isinstance(value, ast.FormattedValue)
            for inner in ast.walk(value.value)
        ):
            faults.append(f"line {node.lineno}: an f-string inside an f-string: give the inner one a name")
    return faults


def _is_truth(node: ast.expr) -> bool:
    calls_bool = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "bool"
    return isinstance(node, ast.Compare) or calls_bool


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not isinstance(node.value, str)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_package_uses_the_agreed_words(file: Path) -> None:
    assert forbidden_words(file) == []


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_pages_examples_and_scripts_use_the_agreed_words(file: Path) -> None:
    assert forbidden_words(file) == []


def test_the_pages_are_there() -> None:
    folders = {file.relative_to(ROOT).parts[0] for file in PAGES}
    assert folders >= {"README.md", "CHANGELOG.md", "docs", "results", "examples", "scripts", "benchmarks", "configs"}


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.suffix == ".py"], ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_no_line_is_clever(file: Path) -> None:
    assert clever_lines(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "# a run goes on where it stopped",
        "# in company of fakes",
        "message = 'the accuracy falls'",
        "# it tells batches apart",
        "# after a caller's mistake",
        "# the judge of images",
        "# information leaks between samples",
        "key = 'why_every'",
    ],
)
def test_a_forbidden_word_is_caught(tmp_path: Path, line: str) -> None:
    file = tmp_path / "module.py"
    file.write_text(f"{line}\n", "utf-8")
    assert forbidden_words(file)


@pytest.mark.parametrize(
    "line",
    [
        "found = 1",
        "def f(its): pass",
        "x = [1] * bool(y)",
        "x = 's' * (n > 1)",
        "x = (f if y else g)(1)",
        "x = f'{f\"{y}\"}'",
    ],
)
def test_a_clever_line_is_caught(line: str) -> None:
    assert clever_lines(line)


def test_the_words_of_the_verdict_and_of_torch_are_allowed(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("# it judges batches; the leak ratio; LeakyReLU's leak: a slope\nbegin = file.tell()\n", "utf-8")
    assert forbidden_words(file) == [] and clever_lines("begin = file.tell()") == []

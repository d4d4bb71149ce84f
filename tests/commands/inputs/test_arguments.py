"""Arguments are taken, checked and explained before anything heavy is imported."""

import sys

import pytest

from gannorm.cli import COMMANDS, main
from gannorm.commands.inputs.arguments import (
    add_switch,
    flag_values,
    import_module,
    output_file,
    parse,
    parser_for,
    take_all,
    take_imports,
    take_resume,
    take_switch,
    underscored,
)
from gannorm.errors import UserError


@pytest.fixture
def parser():
    made = parser_for("toy", "A toy.")
    made.add_argument("run", type=str)
    made.add_argument("--steps", type=int, default=1)
    made.add_argument("--free", type=dict[str, int], default={})
    add_switch(made, "--fast", help="quickly")
    return made


def test_values_are_typed_and_free_keys_are_values(parser):
    options = parse(parser, ["here", "--steps=-3", "--free.a", "2", "--fast"])
    assert (options.run, options.steps, options.free, options.fast) == ("here", -3, {"a": 2}, True)
    assert parse(parser, ["here", "--fast=false"]).fast is False


@pytest.mark.parametrize(
    "argv,message",
    [
        (["here", "--step=1"], "unknown key 'step': did you mean 'steps'"),  # no abbreviations
        (["here", "--steps"], "`--steps` must be followed by a value: got none"),
        (["here", "--steps", "--fast"], "`--steps` must be followed by a value"),
        (["here", "--steps", "x"], "`steps` must be .*: got x"),
        ([], "run is missing"),
        (["here", "there.yaml"], "takes no such argument: 'there.yaml'; give each value after its --key"),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(parser, argv, message):
    with pytest.raises(UserError, match=message) as refused:
        parse(parser, argv)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_one_name_and_may_be_typed_with_dashes(command):
    flags = [f for action in COMMANDS[command].parser()._actions for f in action.option_strings if f.startswith("--")]
    assert flags and not [flag for flag in flags if "-" in flag[2:]]
    assert underscored([flag[:2] + flag[2:].replace("_", "-") for flag in flags]) == flags


def test_dashes_and_underscores_are_the_same_command(capsys):
    assert main(["train", "--print-config", "--sample-every=3", "--data.batch-size", "32"]) == 0
    dashes = capsys.readouterr().out
    assert main(["train", "--print_config", "--sample_every=3", "--data.batch_size", "32"]) == 0
    assert capsys.readouterr().out == dashes


def test_flags_are_taken_out_in_both_forms_and_the_rest_stays():
    arguments = ["--a", "1", "x", "--a=2", "--b", "--a"]
    assert flag_values(arguments, "--a") == ["1", "2", ""] and len(arguments) == 6
    assert take_all(arguments, "--a") == ["1", "2", ""]
    assert arguments == ["x", "--b"]
    assert take_switch(arguments, "--b") and not take_switch(arguments, "--b")
    assert arguments == ["x"]


def test_what_must_be_named_is_named():
    with pytest.raises(UserError, match="`--import` must be followed by a module"):
        take_imports(["--import"])
    with pytest.raises(UserError, match="`--resume` must be followed by a run directory"):
        take_resume(["--resume", "--progress"])
    with pytest.raises(UserError, match="--steps"):
        take_resume(["--resume", "runs/a", "--steps=3"])
    assert take_resume(["--resume", "runs/a", "--progress=false"]) == "runs/a"
    assert take_resume(["--steps=3"]) == ""


@pytest.mark.parametrize(
    "name,message",
    [
        ("my-norms", "must be named as in python: got 'my-norms'"),
        ("no_such_module_here", "must be found: 'no_such_module_here' is not"),
        ("broken_module", "must run without an error: broken_module: .*broken_module.py, line 2: ZeroDivisionError"),
        ("half_module", "half_module.py, line 1: SyntaxError"),
    ],
)
def test_a_users_module_that_cannot_be_imported_is_one_line_with_its_place(tmp_path, monkeypatch, name, message):
    (tmp_path / "broken_module.py").write_text("x = 0\n1 / x\n")
    (tmp_path / "half_module.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message):
        import_module(name)
    assert name not in sys.modules


def test_a_results_folder_is_made_and_a_folder_is_no_result(tmp_path):
    assert output_file(str(tmp_path / "new" / "deep.png")).parent.is_dir()
    with pytest.raises(UserError, match="a result must be a file"):
        output_file(str(tmp_path))

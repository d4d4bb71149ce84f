"""`gannorm check` names every config that cannot train, and trains none."""

from gannorm.cli import main

TINY = "data: {name: digits, image_size: 8, batch_size: 16}\nsteps: 2\n"


def test_every_mistake_is_named_and_the_rest_is_counted(capsys, tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(TINY)
    bad.write_text(TINY + "model: {discriminator: {norm: group, norm_options: {groups: 7}}}\n")
    assert main(["check", str(good), str(bad)]) == 2
    out, err = capsys.readouterr()
    assert out == "1 of 2 can be trained\n"
    assert err.startswith(f"{bad}: ") and "groups=7" in err and len(err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == [bad, good]


def test_a_recipe_is_checked_by_its_name(capsys):
    assert main(["check", "digits"]) == 0
    assert capsys.readouterr().out == "1 of 1 can be trained\n"

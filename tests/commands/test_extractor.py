"""`gannorm extractor train` hands the data and the seed on, and says what the extractor can."""

import gannorm.evaluation
from gannorm.cli import main


def test_the_extractor_is_trained_on_the_data_that_is_named(capsys, monkeypatch):
    taken = {}

    def train_in_domain(images, folder, seed):
        taken.update(images=images, folder=folder, seed=seed)
        return {"held_out_accuracy": 0.975, "held_out_images": 40}

    monkeypatch.setattr(gannorm.evaluation, "train_in_domain", train_in_domain)
    flags = ["--data.name=digits", "--data.image_size=16", "--seed=3", "--output=here"]
    assert main(["extractor", "train", *flags]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "here: accuracy 0.9750 on 40 held-out images"
    assert (taken["folder"], taken["seed"], taken["images"].image_size) == ("here", 3, 16)
    assert taken["images"].split == "train"
    assert main(["extractor", "train", *flags[:2]]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("in the cache: accuracy") and taken["folder"] is None

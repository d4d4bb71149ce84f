"""Two processes that share the batches have the scores of one, and hear of each other's mistakes."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def run_process(rank, count, folder):
    """One of `count` processes, into a file; it imports for itself, because the others get nothing but this text."""
    import json
    from dataclasses import replace

    import torch
    from torch import distributed

    from gannorm.data import load_images
    from gannorm.errors import UserError
    from gannorm.evaluation import Evaluator, build_extractor
    from gannorm.models import Generator

    def numbers(scores):
        return {k: v for k, v in scores.to_dict().items() if not k.startswith("seconds")}

    def network(norm):
        torch.manual_seed(0)
        return Generator(image_size=8, channels=1, width=4, latent_dim=6, norm=norm)

    modes = (("batch", "running"), ("batch", "standing"), ("noisy", "batch"), ("sync", "batch"))
    if count > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/{count}", rank=rank, world_size=count)
    try:
        data = load_images("digits", "train", image_size=8)
        data = replace(data, pixels=data.pixels[:300], labels=data.labels[:300])
        passes, seen = [], []
        evaluator = Evaluator(data, samples=150, batch_size=20, device="cpu")
        evaluator.extractor.module.register_forward_pre_hook(lambda m, x: seen.append(len(x[0])))
        found = {f"{norm} {s}": numbers(evaluator.score(network(norm), statistics=s)) for norm, s in modes}
        found["images"] = sum(seen) / len(modes)
        generator = network("noisy")

        def spoil(module, inputs, output):
            passes.append(len(output))
            return output * torch.nan if len(passes) > 1 and rank == count - 1 else output

        generator.register_forward_hook(spoil)
        other = build_extractor("in_domain", data, seed=rank, device="cpu")
        for name, mistake in (
            ("diverged", lambda: evaluator.score(generator)),
            ("extractors", lambda: Evaluator(data, extractor=other, samples=150)),
            ("renorm", lambda: evaluator.score(network("renorm"), statistics="batch")),
        ):
            try:
                mistake()
                found[name] = ""
            except UserError as error:
                found[name] = f"{type(error).__name__}: {error}"
    finally:
        if count > 1:
            distributed.destroy_process_group()
    with open(f"{folder}/{count}-{rank}.json", "w") as file:
        json.dump(found, file)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one process found, and each of two."""
    folder = str(tmp_path_factory.mktemp("ranks"))
    program = inspect.getsource(run_process)
    started = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", f"{program}\nrun_process{rank, count, folder}"])
        for rank, count in ((0, 1), (0, 2), (1, 2))
    ]
    try:
        assert [process.wait(timeout=600) for process in started] == [0, 0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [json.loads(Path(folder, f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")]


def test_two_processes_have_the_scores_of_one_and_half_of_its_work(results):
    one, first, second = results
    scored = [name for name in one if isinstance(one[name], dict)]
    assert len({one[name]["fid"] for name in scored}) == len(scored) == 4  # the comparison was not of equals
    for name in scored:
        assert first[name] == second[name] == one[name], name
    # 150 images: seven batches of 20 and one of 10, every second one.
    assert (one["images"], first["images"], second["images"]) == (150, 80, 70)


def test_a_mistake_in_one_process_is_raised_in_all(results):
    _, *both = results
    for found in both:
        assert found["diverged"].startswith("NotFiniteError: a generator's images must be finite")
        assert "every process must score with the same extractor" in found["extractors"]
        assert "do not lean on those before them" in found["renorm"]


def test_alone_no_process_waits_for_another(results):
    assert results[0]["extractors"] == results[0]["renorm"] == ""

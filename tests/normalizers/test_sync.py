"""Two processes with a part of the batch each give the output, gradient and statistics of one with all of it."""

import inspect
import subprocess
import sys

import torch
from torch import nn

X = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
PARTS = (X[:2], X[2:])  # unequal shares, so that a mean of means would be wrong


def run_process(rank, folder):
    """One of the two processes; it imports for itself, because the other one gets nothing but this text."""
    import torch
    from torch import distributed

    from gannorm.normalizers import NORMALIZERS

    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        layer = NORMALIZERS["sync"](3).double()
        x = torch.load(f"{folder}/x{rank}.pt").requires_grad_()
        y = layer(x)
        y.pow(3).sum().backward()
        results = (y, x.grad, layer.weight.grad, layer.running_mean, layer.running_var)
        torch.save([t.detach() for t in results], f"{folder}/results{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_are_one_batch_norm_of_the_joined_batch(tmp_path):
    for rank, part in enumerate(PARTS):
        torch.save(part.clone(), tmp_path / f"x{rank}.pt")
    program = f"{inspect.getsource(run_process)}\nrun_process(1, {str(tmp_path)!r})"
    other = subprocess.Popen([sys.executable, "-c", program])
    try:
        run_process(0, tmp_path)
        assert other.wait(timeout=240) == 0
    finally:
        other.kill()
    found = [torch.load(tmp_path / f"results{rank}.pt") for rank in range(2)]
    outputs, slopes, gains, means, variances = zip(*found, strict=True)

    reference, x = nn.BatchNorm2d(3).double(), X.clone().requires_grad_()
    y = reference(x)
    y.pow(3).sum().backward()
    tolerance = {"atol": 1e-12, "rtol": 0}  # float64, values of order ten
    torch.testing.assert_close(torch.cat(outputs), y.detach(), **tolerance)
    torch.testing.assert_close(torch.cat(slopes), x.grad, **tolerance)
    torch.testing.assert_close(sum(gains), reference.weight.grad, **tolerance)  # local, for data parallel to average
    for rank in range(2):
        torch.testing.assert_close(means[rank], reference.running_mean, **tolerance)
        torch.testing.assert_close(variances[rank], reference.running_var, **tolerance)
    # The negative: separate BatchNorms are something else.
    apart = torch.cat([nn.BatchNorm2d(3).double()(part) for part in PARTS])
    assert (apart - y).abs().max() > 0.1

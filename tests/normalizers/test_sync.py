"""Two processes with a part of the batch each give the output, gradient and statistics of one with all of it."""

import torch
from torch import distributed, multiprocessing, nn

from gannorm.normalizers import NORMALIZERS

X = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
PARTS = ((0, 2), (2, 6))  # unequal shares, so that a mean of means would be wrong


def process(rank, rendezvous, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    layer = NORMALIZERS["sync"](3).double()
    x = X[slice(*PARTS[rank])].clone().requires_grad_()
    y = layer(x)
    y.pow(3).sum().backward()
    shared = [t.detach().numpy() for t in (y, x.grad, layer.weight.grad, layer.running_mean, layer.running_var)]
    results.put((rank, shared))
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_are_one_batch_norm_of_the_joined_batch(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    workers = [context.Process(target=process, args=(rank, tmp_path / "rendezvous", results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = dict(results.get() for _ in workers)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    outputs, slopes, gains, means, variances = ([torch.tensor(found[r][i]) for r in range(2)] for i in range(5))

    reference, x = nn.BatchNorm2d(3).double(), X.clone().requires_grad_()
    y = reference(x)
    y.pow(3).sum().backward()
    tolerance = {"atol": 1e-12, "rtol": 0}  # float64, values of order ten
    torch.testing.assert_close(torch.cat(outputs), y, **tolerance)
    torch.testing.assert_close(torch.cat(slopes), x.grad, **tolerance)
    torch.testing.assert_close(sum(gains), reference.weight.grad, **tolerance)  # as DistributedDataParallel sums them
    for rank in range(2):
        torch.testing.assert_close(means[rank], reference.running_mean, **tolerance)
        torch.testing.assert_close(variances[rank], reference.running_var, **tolerance)
    # The negative: separate BatchNorms are something else.
    apart = torch.cat([nn.BatchNorm2d(3).double()(X[slice(*part)]) for part in PARTS])
    assert (apart - y).abs().max() > 0.1

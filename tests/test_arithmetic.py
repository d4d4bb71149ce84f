"""Torch's global switches are set in one file, and put back; bfloat16 is taken where it is faster."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import gannorm
from gannorm.arithmetic import fast_bf16, undisturbed


def settings():
    backends = torch.backends
    return (
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,
        backends.mkldnn.matmul.fp32_precision,
        backends.mkldnn.conv.fp32_precision,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        torch.is_autocast_enabled("cpu"),
    )


def test_reduced_precision_is_off_inside_and_back_outside_also_after_an_error():
    a = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    exact = a @ a
    matmul = torch.get_float32_matmul_precision()
    backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # set by set_float32_matmul_precision too
    precisions = [backend.fp32_precision for backend in backends]
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            before = settings()
            with pytest.raises(KeyError), undisturbed():
                assert torch.equal(a @ a, exact)
                assert settings() == ("ieee", "ieee", "ieee", "ieee", False, True, False)
                raise KeyError
            assert settings() == before and before[4] and before[6]
            assert not torch.equal((a @ a).float(), exact)  # the caller's autocast is on again
    finally:
        torch.set_float32_matmul_precision(matmul)
        for backend, precision in zip(backends, precisions, strict=True):
            backend.fp32_precision = precision
        torch.backends.cudnn.benchmark = False


def test_every_global_generator_is_put_back():
    def draws():
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draws()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with undisturbed():
        draws()
    assert draws() == expected


@pytest.mark.parametrize(
    ("name", "instructions", "taken"),
    [
        ("Intel Xeon", {"amx_tile", "avx512_bf16", "avx512_fp16"}, "AMX"),  # Sapphire Rapids and later
        ("Intel Xeon", {"avx512_bf16", "avx512_fp16"}, ""),  # the same in a virtual machine without AMX
        ("Intel Xeon", {"avx512_bf16"}, "AVX512-bf16"),  # Cooper Lake
        ("AMD EPYC", {"avx512_bf16"}, "AVX512-bf16"),  # Zen 4
        ("AMD EPYC", {"avx512_bf16", "avx512_fp16"}, "AVX512-bf16"),
        ("Intel Xeon", set(), ""),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster_not_where_it_is_possible(monkeypatch, name, instructions, taken):
    capabilities = {"cpu_name": name} | dict.fromkeys(instructions, True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert fast_bf16("cpu") == taken


SWITCHES = re.compile(
    r"\btorch\.(use_deterministic\w*|set_(default|float32|num|flush|warn)\w*)\("
    r"|\bbackends\.(cuda|cudnn|mkldnn)\b|\bcudnn\.|fp32_precision|fill_uninitialized|allow_tf32"
)


def test_no_other_file_touches_torchs_global_switches():
    package = Path(gannorm.__file__).parent
    touching = [file.relative_to(package) for file in package.rglob("*.py") if SWITCHES.search(file.read_text())]
    assert touching == [Path("arithmetic.py")]

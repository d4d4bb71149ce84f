"""Networks by where the batch is, and by the sizes that it may have."""

from __future__ import annotations

import torch
from support.third_party.case import Case, batch, case
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# -- 4: where the batch is --------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, norm: nn.Module, kind: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.rnn, self.norm, self.head = kind(5, 16), norm, nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:  # (T, N, C)
        return self.head(self.norm(self.rnn(x)[0][-1]))


@case
def lstm_with_as_many_channels_as_samples() -> Case:
    return Case(Recurrent(nn.Identity()), batch(10, 16, 5), [], {"batch_dim": 1})


@case
def gru_with_a_batch_norm() -> Case:
    return Case(Recurrent(nn.BatchNorm1d(16), nn.GRU), batch(10, 16, 5), ["norm"], {"batch_dim": 1})


class Tokens(nn.Module):
    """Tokens first, as many as samples."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.embed, self.attention = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2)
        self.norm, self.head = norm, nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).flatten(2).permute(2, 0, 1)
        return self.head(self.norm(self.attention(h, h, h)[0].mean(0)))


@case
def tokens_first() -> Case:
    return Case(Tokens(nn.Identity()), batch(16, 3, 16, 16), [])


@case
def tokens_first_with_a_batch_norm() -> Case:
    return Case(Tokens(nn.BatchNorm1d(8)), batch(16, 3, 16, 16), ["norm"])


class Packed(nn.Module):
    """A packed sequence goes through a layer that sees no batch in any dimension."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.rnn, self.head = norm, nn.GRU(5, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:  # (N, T, C)
        lengths = torch.arange(len(x)) % 4 + 2
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed = packed._replace(data=self.norm(packed.data))
        return self.head(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].sum(1))


@case
def packed_sequences() -> Case:
    return Case(Packed(nn.LayerNorm(5)), batch(7, 6, 5), [])


@case
def packed_sequences_with_a_batch_norm() -> Case:
    return Case(Packed(nn.BatchNorm1d(5)), batch(7, 6, 5), ["norm"])


class Spectrum(nn.Module):
    def __init__(self, centre: bool) -> None:
        super().__init__()
        self.fourier, self.filter, self.head = Fourier(), Filter(centre), nn.Linear(9, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.filter(self.fourier(x)).abs())


class Fourier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x)


class Filter(nn.Module):
    def __init__(self, centre: bool) -> None:
        super().__init__()
        self.weight, self.centre = nn.Parameter(torch.randn(9, dtype=torch.complex64)), centre

    def forward(self, z: Tensor) -> Tensor:
        z = z * self.weight
        return z - z.mean(0) if self.centre else z


@case
def complex_activations() -> Case:
    return Case(Spectrum(False), batch(8, 16), [])


@case
def complex_activations_centred() -> Case:
    return Case(Spectrum(True), batch(8, 16), ["filter"])


class Experts(nn.Module):
    """Each token goes to one expert, so that an expert sees rows of changing samples."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(5, 2), nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
        self.norm, self.head = norm, nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:  # (N, T, C)
        tokens = x.flatten(0, 1)
        chosen = self.gate(tokens).argmax(1)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            out = out.index_put((mine.nonzero()[:, 0],), expert(tokens[mine]))
        return self.head(self.norm(out.view_as(x).mean(1)))


@case
def experts() -> Case:
    return Case(Experts(nn.Identity()), batch(6, 5, 5), [])


@case
def experts_and_a_batch_norm() -> Case:
    return Case(Experts(nn.BatchNorm1d(5)), batch(6, 5, 5), ["norm"])


class Modulated(nn.Module):
    """The batch folded into the channels of a grouped convolution, as in StyleGAN2."""

    def __init__(self, demodulate_over_batch: bool) -> None:
        super().__init__()
        self.weight, self.over_batch = nn.Parameter(torch.randn(4, 3, 3, 3)), demodulate_over_batch
        self.style, self.head = nn.Linear(3, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        style = self.style(x.mean((2, 3)))
        weight = self.weight[None] * style[:, None, :, None, None]
        dims = (0, 2, 3, 4) if self.over_batch else (2, 3, 4)
        weight = weight * torch.rsqrt(weight.square().sum(dims, keepdim=True) + 1e-8)
        y = nn.functional.conv2d(x.reshape(1, n * c, h, w), weight.flatten(0, 1), padding=1, groups=n)
        return self.head(y.view(n, 4, h, w).mean((2, 3)))


@case
def modulated_convolution() -> Case:
    return Case(Modulated(False), batch(4, 3, 8, 8), [])


@case
def modulated_convolution_normalized_over_the_batch() -> Case:
    return Case(Modulated(True), batch(4, 3, 8, 8), [""])


# -- 5: fixed batch sizes ---------------------------------------------------------------------------------------------


class GroupDeviation(nn.Module):
    """The standard deviation over groups of four, which must divide the batch."""

    def forward(self, h: Tensor) -> Tensor:
        groups = h.view(4, -1, h.shape[1])
        return torch.cat([h, groups.std(0).mean(1, keepdim=True).repeat(4, 1)], 1)


@case
def minibatch_deviation() -> Case:
    return Case(nn.Sequential(nn.Linear(3, 8), GroupDeviation(), nn.Linear(9, 1)), batch(12), ["1"])


@case
def labelled_minibatch_deviation() -> Case:
    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.deviation, self.embedding = nn.Linear(3, 8), GroupDeviation(), nn.Embedding(5, 9)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.deviation(self.linear(x)) * self.embedding(y)).sum(1)

    return Case(Labelled(), (batch(12), torch.arange(12) % 5), ["deviation"])


@case
def a_fixed_batch_size() -> Case:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)
            self.register_buffer("ids", torch.arange(10))

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + 0 * self.ids[:, None]

    return Case(Fixed(), batch(10), [])


@case
def ghost_batch_norm() -> Case:
    class Ghost(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.norm(part) for part in x.chunk(len(x) // 4)])

    return Case(nn.Sequential(nn.Linear(3, 8), Ghost(), nn.Linear(8, 1)), batch(12), ["1.norm"])

"""A module of a user's own networks, as text: good ones and broken ones."""

NETS = """
from torch import nn

class Critic(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

def independent():
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1))

def needs(width):
    return nn.Linear(4, width)

number = 3

def text():
    return "not a module"

def broken():
    return {}["key"]

class Refuses(nn.Module):
    def forward(self, x):
        raise KeyError("no such thing")

class OneSize(nn.Linear):
    def __init__(self):
        super().__init__(4, 1)

    def forward(self, x):
        assert len(x) == 16
        return super().forward(x)

import random

class Restless(nn.Linear):
    drawn = random.Random(0)

    def __init__(self):
        super().__init__(4, 1)

    def forward(self, x):
        return super().forward(x) + 9 * self.drawn.random()
"""

"""How fast is gannorm, as ratios to what one would write oneself, each measured in turn with it (A B A B …).

    python -m benchmarks                          # everything: minutes; a table, and benchmark.json
    python -m benchmarks --only training --quick  # one section, fewer repeats

A ratio is the median over rounds of the ratio within a round, with its range; so a machine that others use too moves
all of a round together. "Faster" is the other's time over ours, "cost" ours over the other's. The share of the peak is
the FLOPs of the convolutions and matrix products over time, as a part of the rate of a large matrix product in the
same precision. Sections whose libraries are not installed are left out, with a line that says so.

Missing on purpose: timings of a single tensor operation, which nobody waits for.
"""

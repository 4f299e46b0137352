"""What the other process of test_gloo.py does: nothing that is slow to import."""

from __future__ import annotations

import torch

from kilter.cluster.weights import Taken, checksums, receive


def tensors(seed):
    """Of several kinds and odd sizes; none is a neighbour's multiple."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    return {
        "a": draw(3, 5),
        "b.bias": draw(7).to(torch.bfloat16),
        "flags": draw(9) > 0,
        "scalar": draw(1)[0],
        "none": torch.zeros(0, 4),
        "whole": draw(3, 5).T,
        "ids": torch.arange(seed, seed + 3),
    }


def taken(package):
    """What a process holds after it took a package, and how often it said that it goes on."""
    owned, ticks = tensors(0), []
    receive(package, owned, lambda: ticks.append(1))
    return Taken(package.version, checksums(owned)), len(ticks)

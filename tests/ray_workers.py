"""What the workers of test_ray.py hold: nothing that is slow to import."""

from __future__ import annotations

import os
import time

from kilter.errors import RunFailed, UserError


class Echo:
    """A worker of the tests; it needs no model."""

    def __init__(self, wrong=False):
        self.weights, self.count = 0, 0
        if wrong:
            raise UserError("start", "x", "names no model", "give one that is there")

    def ready(self):
        pass

    def pulse(self):
        return self.count

    def load(self, version):
        if version == "never acknowledged":
            time.sleep(1000)
        if version == "raises":
            raise RunFailed("The weights do not fit", "mend it")
        self.weights = version

    def double(self, x, seconds=0.0):
        time.sleep(seconds)
        self.count += 1
        return 2 * x, self.weights, os.getpid()

    def wrong(self):
        raise UserError("a", [1, 2], "is wrong", "mend it")

    def failed(self):
        raise RunFailed("It failed", "mend it", "note")


class Weighing:
    """Takes weights. Who finds the marker removes it, and changes one byte of version 7."""

    def __init__(self, marker):
        import torch

        self.owned, self.version = {"a": torch.zeros(3, 4), "b": torch.zeros(1000, dtype=torch.bfloat16)}, 0
        try:
            os.unlink(marker)
            self.spoils = True
        except FileNotFoundError:
            self.spoils = False

    def ready(self):
        pass

    def pulse(self):
        return self.version

    def facts(self):
        from kilter.types import SamplerFacts

        return SamplerFacts(version=0)

    def load(self, package):
        import torch

        from kilter.cluster.weights import Taken, checksums, receive

        receive(package, self.owned)
        if self.spoils and package.version == 7:
            self.owned["b"].view(torch.uint8)[5] ^= 1
        self.version = package.version
        return Taken(self.version, checksums(self.owned) if package.verify else {})

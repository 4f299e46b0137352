"""Memory of publications: what Ray's store and the driver hold while weights go to two workers, again and again.

    python -m bench.publish                        # 100 publications of 538 MB, and no model
    python -m bench.publish --megabytes 16 --times 20

The store may hold the newest weights, which a worker that comes later is greeted with, and those on their
way. Each publication is settled before the next one, as in turn. Exits with 1 where the store held more than
2.2 copies, or where the driver grew by more than 5 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.stand_in import StandIn
from kilter.cluster.pool import Pool
from kilter.cluster.ray import RayBackend
from kilter.cluster.weights import ObjectTransport, Package, Taken, checksums, receive
from kilter.launch.spec import ClusterSpec
from kilter.training.apart.rollouts import PooledSampler
from kilter.types import Weights

TENSORS = 64
"""Of equal size."""


def made(megabytes: float) -> dict[str, torch.Tensor]:
    """The weights, all zero."""
    size = max(1, round(megabytes * 1e6 / 4 / TENSORS))
    return {f"layer.{n}": torch.zeros(size) for n in range(TENSORS)}


class Holder(StandIn):
    """Takes weights, and does nothing with them."""

    def __init__(self, megabytes: float) -> None:
        self.owned = made(megabytes)

    def load(self, package: Package) -> Taken:
        """Copies the tensors into its own."""
        receive(package, self.owned)
        return Taken(package.version, checksums(self.owned) if package.verify else {})

    def memory(self) -> Mapping[str, float]:
        """MB of this process."""
        return memory()


def memory() -> dict[str, float]:
    """MB of this process: its own, and the shared ones of the store that it has touched."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {name: int(found[name]) / 1000 for name in ("RssAnon", "RssShmem")}


def stored() -> float:
    """MB that Ray's store holds on this node."""
    import ray
    from ray._private.internal_api import node_stats

    own = ray.get_runtime_context().get_node_id()
    node = next(n for n in ray.nodes() if n["NodeID"] == own)
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"])
    return float(stats.store_stats.object_store_bytes_used) / 1e6


def measure(megabytes: float, times: int, verify: int) -> list[dict[str, Any]]:
    """One row per publication."""
    backend = RayBackend(ClusterSpec.model_validate({"rollout": {"place": "apart", "engines": 2}}))
    workers = Pool(backend, "rollout", 2, Holder, {"megabytes": megabytes})
    tensors, rows = made(megabytes), []
    sampler = PooledSampler(workers, ObjectTransport(backend), lambda: tensors, verify=verify)
    sampler.settle()
    for version in range(1, times + 1):
        begin = time.monotonic()
        tensors["layer.0"][0] = version
        sampler.sync(Weights(version))
        sent = time.monotonic() - begin
        most = stored()
        sampler.settle()
        row = {"version": version, "sent": sent, "settled": time.monotonic() - begin, "most": most}
        rows.append(row | {"after": stored()} | memory())
    for slot in workers.slots:
        print("worker:", workers.result(workers.each("memory", lambda n: ())[slot.number]))
    backend.close()
    return rows


def main(given: Sequence[str] | None = None) -> None:
    """Prints the rows; exits with 1 where too much is held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=538.0)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--verify", type=int, default=20)
    options = parser.parse_args(given)
    rows = measure(options.megabytes, options.times, options.verify)
    print("| version | copies when sent | copies when taken | driver's own MB | driver's shared MB | s |")
    print("|---|---|---|---|---|---|")
    every = max(1, options.times // 20)
    for r in rows[::every]:
        copies = f"{r['most'] / options.megabytes:.2f} | {r['after'] / options.megabytes:.2f}"
        own = f"{r['RssAnon']:.0f} | {r['RssShmem']:.0f} | {r['settled']:.2f}"
        print(f"| {r['version']} | {copies} | {own} |", flush=True)
    # What the driver has ever touched of the store shows the moment in which old and new are both there.
    most = max(max(r["most"], r["after"], r["RssShmem"]) for r in rows) / options.megabytes
    totals = [r["RssAnon"] + r["RssShmem"] for r in rows[len(rows) // 4 :]]
    growth = max(totals) / totals[0] - 1
    print(f"at most {most:.2f} copies in the store; the driver grew by {growth:.1%} after the first quarter")
    raise SystemExit(0 if most <= 2.2 and growth <= 0.05 else 1)


if __name__ == "__main__":
    # Workers import what they hold by the name of its module.
    from bench import publish

    publish.main()

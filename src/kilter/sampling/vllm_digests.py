"""What Kilter adds to vLLM's own workers. It is imported in their processes, and nowhere else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kilter.runtime import in_threads

ADDED = "kilter.sampling.vllm_digests.Digests"
"""Its name for vLLM."""


class Digests:
    """vLLM's checksums of a worker's weights, several tensors at a time: one core takes long."""

    model_runner: Any

    def kilter_digests(self) -> dict[str, str]:
        """SHA-256 of each tensor, by vLLM's own names."""
        from vllm.model_executor.model_loader.weight_checksum import compute_tensor_digests

        def of_one(named: tuple[str, Any]) -> dict[str, str]:
            # vLLM asks a module for nothing but this.
            only: Any = SimpleNamespace(named_parameters=lambda: iter([named]))
            found: dict[str, str] = compute_tensor_digests(only)
            return found

        weights = self.model_runner.get_model().named_parameters()
        return {name: digest for found in in_threads(of_one, weights) for name, digest in found.items()}

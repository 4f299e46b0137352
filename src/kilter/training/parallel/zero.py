"""DeepSpeed's ZeRO as an engine: optimizer states (1) and gradients (2) are divided over the processes.

Stage 3 divides the weights too and gathers them only inside the modules that own them. A head that is
applied outside its module cannot work with it: `fsdp` is the way to divide weights here.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kilter.errors import UserError
from kilter.training.parallel.engine import AccelerateEngine
from kilter.training.parallel.shards import SHARDS


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Lets torch take nothing but tensors and DeepSpeed's own settings from DeepSpeed's files.

    DeepSpeed asks torch to run whatever its files hold.
    """
    # The few records that DeepSpeed pickles beside its tensors; anything else is refused.
    safe = [getattr(importlib.import_module(f"deepspeed.{module}"), name) for module, name in SETTINGS]
    # The caller inside DeepSpeed says otherwise, and cannot be told from outside.
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"
    try:
        with torch.serialization.safe_globals(safe):
            yield
    finally:
        os.environ.pop(FORCED)
        if before is not None:
            os.environ[FORCED] = before


SETTINGS = (
    ("runtime.fp16.loss_scaler", "LossScaler"),
    ("runtime.zero.config", "ZeroStageEnum"),
    ("utils.tensor_fragment", "fragment_address"),
)
"""What DeepSpeed keeps beside tensors: plain records without a method that runs at load."""

FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch reads it at every load; it outranks what the caller asks for."""


class ZeroEngine(AccelerateEngine):
    """Several processes under DeepSpeed.

    Gradients, clipping and the optimizer's step are DeepSpeed's; the loop is the same.
    """

    def __init__(self, stage: int, max_grad_norm: float) -> None:
        super().__init__(None)
        self.stage, self.max_grad_norm = stage, max_grad_norm
        # Moments are divided, so that a checkpoint is a folder that every process writes to.
        self.sharded = True

    def wrap(self, module: nn.Module) -> nn.Module:
        """Only moved: DeepSpeed wraps it together with its optimizer, in `prepare`."""
        return module.to(self.device)

    def prepare(self, module: nn.Module, optimizer: Any) -> tuple[Any, Any]:
        """DeepSpeed's engine and its optimizer over these parameters."""
        with warnings.catch_warnings():
            # DeepSpeed warns of what it looks for and does not find, such as a compiler.
            warnings.simplefilter("ignore")
            deepspeed = importlib.import_module("deepspeed")

            logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
            # One micro-batch of one row, as it believes: the loop itself decides what a step is.
            config = {
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": self.max_grad_norm,
                "zero_optimization": {"stage": self.stage},
                "zero_allow_untested_optimizer": True,
            }
            engine, wrapped, _, _ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        return engine, wrapped

    def accumulate(self, module: Any, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are reduced at the last micro-batch."""
        module.set_gradient_accumulation_boundary(last)
        return contextlib.nullcontext()

    def backward(self, module: Any, value: Tensor) -> None:
        """DeepSpeed's backward; a step that is not at the boundary only counts the micro-batch."""
        module.backward(value)
        # Its own count of micro-batches must go on, or the boundary comes too late.
        if not module.is_gradient_accumulation_boundary():
            module.step()

    def update(
        self, modules: list[Any], optimizer: Any, limit: float, set_rates: Callable[[], None], finite: bool
    ) -> Tensor:
        """Clips and steps. A gradient that is not finite ends the run.

        Returns:
            The norm before clipping, which DeepSpeed knows only afterwards.
        """
        set_rates()
        modules[0].step()
        return torch.as_tensor(float(modules[0].get_global_grad_norm()))

    def state(self, module: nn.Module, wanted: bool = False) -> dict[str, Tensor]:
        """Stages 1 and 2 keep whole weights on every process."""
        return (
            {
                k.removeprefix("module."): v.detach().cpu()
                for k, v in module.named_parameters()
                if v.requires_grad
            }
            if wanted or self.is_main
            else {}
        )

    def checkpoint(self, module: Any, optimizer: Any, folder: Path) -> dict[str, Any]:
        """Every process writes its part, in DeepSpeed's format."""
        self.barrier()  # the folder is there
        module.save_checkpoint(str(folder / SHARDS), tag="zero")
        self.barrier()  # the checkpoint is sealed when every process has written
        return {}

    def restore(self, module: Any, optimizer: Any, state: dict[str, Any], folder: Path) -> None:
        """The inverse of `checkpoint`, with as many processes as wrote it."""
        cause = "no whole checkpoint"
        try:
            with _tensors_only():
                found, _ = module.load_checkpoint(str(folder / SHARDS), tag="zero")
        # DeepSpeed has no one class for it.
        except Exception as error:
            found, cause = None, str(error)[:120]
        if found is None:
            raise UserError(
                "processes",
                self.world,
                f"cannot take up this ZeRO checkpoint ({cause})",
                "resume with as many processes as wrote it",
            )

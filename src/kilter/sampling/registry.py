"""Samplers by name. The built-in ones are declared here and read on demand: their names cost no torch."""

from __future__ import annotations

from collections.abc import Callable

from kilter.registry import Registry
from kilter.seams import Sampler

samplers: Registry[Callable[..., Sampler]] = Registry("sampler")
samplers.declare("kilter.sampling.local", "local")
samplers.declare("kilter.sampling.vllm", "vllm")
samplers.declare("kilter.sampling.openai", "openai")
samplers.declare("kilter.sampling.scripted", "scripted")
samplers.declare("kilter.sampling.world", "world")

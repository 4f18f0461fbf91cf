"""`parity`: reference files through the engine."""

from __future__ import annotations

from . import autoencoder, operators, pixart_graft, processes, transformers
from .check import Case, Report

__all__ = ["CASES", "Case", "Report"]

_OTHER = "belongs to the native engine"

CASES = [
    Case("op_", operators.run, lambda f: operators.missing(f.config["op"]), rounds=True),
    Case("dit_tiny", transformers.dit, rounds=True),
    Case("dit_hybrid", transformers.hybrid, transformers.hybrid_refusal, rounds=True),
    Case("dit_diffusers", transformers.diffusers),
    Case("diffusion_schedule", processes.schedule, processes.schedule_refusal),
    Case("diffusion_losses", processes.losses),
    Case("diffusion_psample", processes.sampler),
    Case("diffusion_ddim", processes.sampler),
    Case("diffusion_dpmpp", processes.solver),
    Case("pixart_tiny", transformers.pixart, rounds=True),
    Case("pixart_graft/teacher", pixart_graft.teacher, rounds=True),
    Case("pixart_graft/hybrid", pixart_graft.hybrid, rounds=True),
    Case("pixart_graft/lora", pixart_graft.adapters),
    Case("vae_tiny", autoencoder.run, rounds=True),
    Case("stage1_ref", operators.stage1, operators.stage1_refusal),
    Case("stage2_ref", transformers.stage2, transformers.hybrid_refusal),
    Case("sit/model", transformers.sit),
    Case("sit/sampling", processes.sit_sampling),
    Case("sit/paths", processes.sit_paths),
    Case("analysis_ref", operators.run, lambda f: _OTHER),
    Case("fid_ref", operators.run, lambda f: _OTHER),
]
"""All families of reference files; the longest matching prefix decides."""

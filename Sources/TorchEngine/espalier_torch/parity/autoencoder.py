"""The autoencoder with current and early parameter names (`vae_tiny`)."""

from __future__ import annotations

import torch

from ..autoencoder import AutoencoderKL
from .check import Check


def run(check: Check) -> None:
    """Compares encoder features, posterior and decoded images."""
    fixture, config = check.fixture, check.fixture.config
    table = {**config["vae"], "scaling_factor": config.get("scaling_factor", 0.18215)}
    model = AutoencoderKL.from_tensors(table, fixture.parameters(), fixture.path).to(check.device)
    images, latents = check.tensor("in.x"), check.tensor("in.z")
    with torch.no_grad(), check.autocast():
        check.forward("out.encoder", model.encoder(images))
        mean, log_variance = model.encode(images)
        check.forward("out.mean", mean)
        check.forward("out.logvar", log_variance)
        check.forward("out.moments", torch.cat([mean, log_variance], dim=1))
        check.forward("out.decode", model.decode(latents))
        early = {}
        for name, value in fixture.parameters().items():
            for present, old in config["old_attention_names"].items():
                if ".attentions." in name:
                    name = name.replace(f".{present}.", f".{old}.")
            early[name] = value
        other = AutoencoderKL.from_tensors(table, early, fixture.path).to(check.device)
        check.forward("out.decode", other.decode(latents), remark="early attention names")
        check.forward("out.encoder", other.encoder(images), remark="early attention names")

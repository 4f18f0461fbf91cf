"""A PixArt-Sigma folder that Espalier wrote, plain or grafted, in diffusers: the same latents and images.

    pip install torch diffusers transformers accelerate sentencepiece protobuf beautifulsoup4 ftfy numpy safetensors
    make build && python3 Tests/Reference/pixart_pipeline.py FOLDER [--espalier .build/release/espalier]

FOLDER is what `espalier convert MODEL --naming diffusers --to FOLDER` has written. A grafted model's operators, which
diffusers does not have, are put in the places of its modules before the weights are loaded: that is all that another
program needs to do. Ends with 1 if anything differs by more than it should.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Sources/TorchEngine"))
from espalier_torch import operators  # noqa: E402
from espalier_torch.modelfile import ModelFile  # noqa: E402

PROMPTS = ["A red fox, in the snow!", "two cups on a table (4k)"]


class Mixer(torch.nn.Module):
    """An operator with the call of diffusers' self-attention, which passes what it does not take."""

    def __init__(self, operator, grid):
        super().__init__()
        self.__dict__["grid"] = grid
        for name, child in operator.named_children():
            self.add_module(name, child)
        for name, parameter in operator.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.__dict__["operator"] = operator

    def forward(self, hidden_states, *_, **__):
        return self.operator(hidden_states, self.grid)


def transformer(folder, grid):
    """The network of a folder with its grafted operators, all weights loaded strictly."""
    own = folder / "transformer"
    config = json.loads((own / "config.json").read_text())
    network = PixArtTransformer2DModel.from_config(config)
    file = ModelFile(str(folder))
    edits = file.plan.edits if file.plan else {}
    for (block, slot), (name, settings) in edits.items():
        made = Mixer(operators.build(name, slot, settings, file.shape), grid)
        setattr(network.transformer_blocks[block], "attn1" if slot == "attention" else "ff", made)
    with safe_open(own / "diffusion_pytorch_model.safetensors", "pt") as tensors:
        weights = {name: tensors.get_tensor(name) for name in tensors.keys()}
    for block, slot in edits:
        # Operators with queries, keys and values have them in one layer, and the MLP's layers by their own names.
        place = f"transformer_blocks.{block}." + ("attn1." if slot == "attention" else "ff.")
        for theirs, ours in (("to_out.0.", "proj."), ("net.0.proj.", "fc1."), ("net.2.", "fc2.")):
            for kind in ("weight", "bias"):
                if place + theirs + kind in weights:
                    weights[place + ours + kind] = weights.pop(place + theirs + kind)
        for kind in ("weight", "bias"):
            if f"{place}to_q.{kind}" in weights:
                parts = [weights.pop(f"{place}to_{part}.{kind}") for part in "qkv"]
                weights[f"{place}qkv.{kind}"] = torch.cat(parts)
    network.load_state_dict(weights, strict=True)
    print(f"{folder}: {len(edits)} grafted operators, every tensor loaded")
    return network.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--espalier", default=ROOT / ".build/release/espalier")
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    config = json.loads((options.folder / "transformer/config.json").read_text())
    side, channels = config["sample_size"], config["in_channels"]
    grid = (side // config["patch_size"],) * 2
    noise = torch.randn(len(PROMPTS), channels, side, side, generator=torch.Generator().manual_seed(3))
    vae = AutoencoderKL.from_pretrained(options.folder / "vae")
    network = transformer(options.folder, grid)
    scheduler = DPMSolverMultistepScheduler.from_pretrained(options.folder / "scheduler")
    worst = 0.0

    def compare(label, found, expected, tolerance):
        nonlocal worst
        error = float(np.abs(found - expected).max() / max(1e-12, np.abs(expected).max()))
        print(f"{label}: largest difference {error:.1e} of the largest value, allowed {tolerance:.0e}")
        worst = max(worst, error / tolerance)

    def run(pipeline, words, arguments):
        with tempfile.TemporaryDirectory() as scratch:
            paths = {name: f"{scratch}/{name}" for name in ("noise.npy", "latents.npy", "decoded.npy", "captions", "null")}
            np.save(paths["noise.npy"], noise.numpy())
            for name, tensors in arguments.pop("files", {}).items():
                save_file(tensors, f"{paths[name]}.safetensors")
            command = [
                options.espalier, "sample", options.folder, "--steps", str(options.steps), "--guidance", "4.5",
                "--noise", paths["noise.npy"], "--latents", paths["latents.npy"], "--decoded", paths["decoded.npy"],
                "--no-binning", "--precision", "fp32", "--tiling", "off", *words(paths),
            ]
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"espalier sample: {done.stderr}")
            own = np.load(paths["latents.npy"]), np.load(paths["decoded.npy"])
        common = {
            "latents": noise, "num_inference_steps": options.steps, "guidance_scale": 4.5, "output_type": "latent",
            "use_resolution_binning": False, "height": side * vae_scale, "width": side * vae_scale, **arguments,
        }
        with torch.no_grad():
            latents = pipeline(**common).images
            decoded = vae.decode(latents / vae.config.scaling_factor).sample
        return own, (latents.numpy(), decoded.numpy())

    vae_scale = 2 ** (len(vae.config.block_out_channels) - 1)
    parts = {"transformer": network, "vae": vae, "scheduler": scheduler}

    # Embeddings as files: the network, the sampler and the autoencoder.
    random = torch.Generator().manual_seed(4)
    width = config["caption_channels"]
    embeds, null = torch.randn(2, 7, width, generator=random), torch.randn(1, 5, width, generator=random)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    padded = torch.cat([null, torch.zeros(1, 2, width)], dim=1).repeat(2, 1, 1)
    pipeline = PixArtSigmaPipeline(tokenizer=None, text_encoder=None, **parts)
    pipeline.set_progress_bar_config(disable=True)
    own, theirs = run(
        pipeline,
        lambda paths: ["--captions", f"{paths['captions']}.safetensors", "--null-caption", f"{paths['null']}.safetensors"],
        {
            "files": {"captions": {"prompt_embeds": embeds, "prompt_attention_mask": mask}, "null": {
                "prompt_embeds": null, "prompt_attention_mask": torch.ones(1, 5, dtype=torch.int64)}},
            "prompt_embeds": embeds, "prompt_attention_mask": mask, "negative_prompt": None,
            "negative_prompt_embeds": padded, "negative_prompt_attention_mask": torch.tensor([[1] * 5 + [0] * 2] * 2),
        },
    )
    compare("latents of embeddings", own[0], theirs[0], 1e-3)
    compare("images of embeddings", own[1], theirs[1], 1e-3)

    # Prompts: tokenizer and text encoder too.
    if (options.folder / "text_encoder").is_dir():
        from transformers import T5EncoderModel, T5Tokenizer

        pipeline = PixArtSigmaPipeline(
            tokenizer=T5Tokenizer.from_pretrained(options.folder / "tokenizer"),
            text_encoder=T5EncoderModel.from_pretrained(options.folder / "text_encoder").float(), **parts,
        )
        pipeline.set_progress_bar_config(disable=True)
        own, theirs = run(
            pipeline, lambda paths: [word for text in PROMPTS for word in ("--prompt", text)], {"prompt": PROMPTS})
        compare("latents of prompts", own[0], theirs[0], 1e-3)
        compare("images of prompts", own[1], theirs[1], 1e-3)
    sys.exit(1 if worst > 1 or not np.isfinite(worst) else 0)


if __name__ == "__main__":
    main()

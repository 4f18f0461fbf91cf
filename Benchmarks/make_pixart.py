"""Writes a PixArt-Sigma XL/2 pipeline of full size with random weights, to measure time and memory.

    python3 Benchmarks/make_pixart.py FOLDER [--pixels 1024] [--t5]      # numpy alone; 2.8 GB, with T5-XXL 9.6 GB more

Without --t5 the folder has no text encoder and captions are given as embeddings, `captions.npy`. With it the encoder is
one of T5 v1.1 XXL's size in bfloat16; its tokenizer has to be copied from elsewhere.
"""

import argparse
import json
import pathlib
import struct

import numpy as np

RANDOM = np.random.default_rng(0)


def save(path, shapes, dtype="F32"):
    """Writes tensors of N(0, 0.02^2), ones for norms, one at a time."""
    size = {"F32": 4, "BF16": 2}[dtype]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        count = int(np.prod(shape)) * size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + count]}
        at += count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            if "norm" in name and name.endswith("weight") and len(shape) == 1:
                values = np.ones(shape, np.float32)
            else:
                # Only the scale matters; one drawn block of a million numbers is repeated.
                values = np.resize(BLOCK, int(np.prod(shape)))
                if len(shape) > 1:
                    values = values * np.float32(1 / np.sqrt(np.prod(shape[1:])))
            raw = values.astype(np.float32).view(np.uint32)
            file.write((raw >> 16).astype(np.uint16).tobytes() if dtype == "BF16" else raw.tobytes())


BLOCK = RANDOM.standard_normal(1_000_003).astype(np.float32)


def linear(shapes, name, outputs, inputs, bias=True):
    shapes[f"{name}.weight"] = (outputs, inputs)
    if bias:
        shapes[f"{name}.bias"] = (outputs,)


def transformer(dim=1152, depth=28):
    shapes = {"pos_embed.proj.weight": (dim, 4, 2, 2), "pos_embed.proj.bias": (dim,), "scale_shift_table": (2, dim)}
    for name, outputs, inputs in (
        ("adaln_single.emb.timestep_embedder.linear_1", dim, 256), ("adaln_single.emb.timestep_embedder.linear_2", dim, dim),
        ("adaln_single.linear", 6 * dim, dim), ("caption_projection.linear_1", dim, 4096),
        ("caption_projection.linear_2", dim, dim), ("proj_out", 32, dim),
    ):
        linear(shapes, name, outputs, inputs)
    for block in range(depth):
        own = f"transformer_blocks.{block}"
        shapes[f"{own}.scale_shift_table"] = (6, dim)
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                linear(shapes, f"{own}.{attention}.{part}", dim, dim)
        linear(shapes, f"{own}.ff.net.0.proj", 4 * dim, dim)
        linear(shapes, f"{own}.ff.net.2", dim, 4 * dim)
    return shapes


def autoencoder():
    shapes, widths = {}, (128, 256, 512, 512)

    def conv(name, outputs, inputs, kernel=3):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, kernel, kernel), (outputs,)

    def norm(name, width):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)

    def residual(name, inputs, outputs):
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", outputs, inputs)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            conv(f"{name}.conv_shortcut", outputs, inputs, 1)

    def middle(name, width):
        residual(f"{name}.mid_block.resnets.0", width, width)
        residual(f"{name}.mid_block.resnets.1", width, width)
        norm(f"{name}.mid_block.attentions.0.group_norm", width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            linear(shapes, f"{name}.mid_block.attentions.0.{part}", width, width)

    conv("encoder.conv_in", widths[0], 3)
    inputs = widths[0]
    for level, width in enumerate(widths):
        for layer in range(2):
            residual(f"encoder.down_blocks.{level}.resnets.{layer}", inputs, width)
            inputs = width
        if level < 3:
            conv(f"encoder.down_blocks.{level}.downsamplers.0.conv", width, width)
    middle("encoder", 512)
    norm("encoder.conv_norm_out", 512)
    conv("encoder.conv_out", 8, 512)
    conv("quant_conv", 8, 8, 1)
    conv("post_quant_conv", 4, 4, 1)
    conv("decoder.conv_in", 512, 4)
    middle("decoder", 512)
    inputs = 512
    for level, width in enumerate(reversed(widths)):
        for layer in range(3):
            residual(f"decoder.up_blocks.{level}.resnets.{layer}", inputs, width)
            inputs = width
        if level < 3:
            conv(f"decoder.up_blocks.{level}.upsamplers.0.conv", width, width)
    norm("decoder.conv_norm_out", 128)
    conv("decoder.conv_out", 3, 128)
    return shapes


def encoder(dim=4096, depth=24, heads=64, inner=10240):
    shapes = {"shared.weight": (32128, dim), "encoder.final_layer_norm.weight": (dim,)}
    for block in range(depth):
        own = f"encoder.block.{block}.layer"
        for part in "qkvo":
            linear(shapes, f"{own}.0.SelfAttention.{part}", dim, dim, bias=False)
        if block == 0:
            shapes[f"{own}.0.SelfAttention.relative_attention_bias.weight"] = (32, heads)
        shapes[f"{own}.0.layer_norm.weight"] = shapes[f"{own}.1.layer_norm.weight"] = (dim,)
        for part, outputs, inputs in (("wi_0", inner, dim), ("wi_1", inner, dim), ("wo", dim, inner)):
            linear(shapes, f"{own}.1.DenseReluDense.{part}", outputs, inputs, bias=False)
    return shapes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--pixels", type=int, default=1024, choices=(256, 512, 1024, 2048))
    parser.add_argument("--t5", action="store_true")
    options = parser.parse_args()

    def config(part, table):
        (options.folder / part).mkdir(parents=True, exist_ok=True)
        (options.folder / part / "config.json").write_text(json.dumps(table, indent=1))

    save(options.folder / "transformer/diffusion_pytorch_model.safetensors", transformer())
    config("transformer", {
        "_class_name": "PixArtTransformer2DModel", "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4,
        "out_channels": 8, "num_layers": 28, "patch_size": 2, "sample_size": options.pixels // 8,
        "interpolation_scale": max(options.pixels // 512, 1), "caption_channels": 4096, "cross_attention_dim": 1152,
        "norm_type": "ada_norm_single", "norm_eps": 1e-6, "attention_bias": True,
        "use_additional_conditions": False,
    })
    save(options.folder / "vae/diffusion_pytorch_model.safetensors", autoencoder())
    config("vae", {
        "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
        "latent_channels": 4, "scaling_factor": 0.13025,
    })
    np.save(options.folder / "captions.npy", RANDOM.standard_normal((1, 120, 4096)).astype(np.float32))
    np.save(options.folder / "null.npy", RANDOM.standard_normal((1, 1, 4096)).astype(np.float32))
    if options.t5:
        save(options.folder / "text_encoder/model.safetensors", encoder(), "BF16")
        config("text_encoder", {
            "model_type": "t5", "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24,
            "vocab_size": 32128, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
            "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6,
        })


if __name__ == "__main__":
    main()

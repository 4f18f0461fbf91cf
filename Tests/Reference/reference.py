"""DiT, AutoencoderKL's decoder and DDIM in plain PyTorch over dictionaries of weights.

Parameter names and formulas are those of facebookresearch/DiT (`models.py`, `diffusion`) and of
diffusers' AutoencoderKL. Weights are random, scaled so that activations stay near one.
"""

import math

import torch
from torch.nn import functional

SCALING_FACTOR = 0.18215


class DiT:
    """A class-conditional diffusion transformer; `weights` has the official names."""

    def __init__(self, weights, heads):
        self.weights, self.heads = weights, heads
        self.width, self.channels, self.patch, _ = weights["x_embedder.proj.weight"].shape
        self.depth = sum(name.endswith("attn.qkv.weight") for name in weights)
        self.classes = weights["y_embedder.embedding_table.weight"].shape[0] - 1

    @staticmethod
    def random(depth, width, heads, patch=2, size=32, channels=4, classes=1000, seed=0):
        """A random network that, like a trained one, predicts mostly the noise that it sees.

        Nothing is zero: neither the modulations, which fresh DiTs start with, nor the last layer.
        """
        generator = torch.Generator().manual_seed(seed)
        weights = {"pos_embed": position_table(size // patch, width)}

        def linear(name, rows, columns, gain=1.0, bias=0.1):
            weights[name + ".weight"] = torch.randn(rows, columns, generator=generator) * gain / columns**0.5
            weights[name + ".bias"] = torch.randn(rows, generator=generator) * bias

        pixels = channels * patch**2
        linear("x_embedder.proj", width, pixels)
        weights["x_embedder.proj.weight"] = weights["x_embedder.proj.weight"].view(width, channels, patch, patch)
        linear("t_embedder.mlp.0", width, 256)
        linear("t_embedder.mlp.2", width, width)
        weights["y_embedder.embedding_table.weight"] = torch.randn(classes + 1, width, generator=generator)
        for block in range(depth):
            linear(f"blocks.{block}.attn.qkv", 3 * width, width)
            linear(f"blocks.{block}.attn.proj", width, width)
            linear(f"blocks.{block}.mlp.fc1", 4 * width, width)
            linear(f"blocks.{block}.mlp.fc2", width, 4 * width)
            linear(f"blocks.{block}.adaLN_modulation.1", 6 * width, width, gain=0.3)
        linear("final_layer.adaLN_modulation.1", 2 * width, width, gain=0.3)
        linear("final_layer.linear", 2 * pixels, width, gain=0.3)
        # The rows of the noise undo the embedding, up to the final norm's scale. Outputs are ordered
        # (row, column, channel), with the channels of the variance behind those of the noise.
        undo = weights["x_embedder.proj.weight"].permute(2, 3, 1, 0) * (1.5 * pixels / width)
        rows = weights["final_layer.linear.weight"].view(patch, patch, 2 * channels, width)
        rows[:, :, :channels] += undo
        return DiT(weights, heads)

    def linear(self, name, x):
        return functional.linear(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def modulated(self, x, shift, scale):
        return functional.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    def attention(self, name, x):
        batch, tokens, width = x.shape
        q, k, v = self.linear(name + ".qkv", x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.linear(name + ".proj", x.transpose(1, 2).reshape(batch, tokens, width))

    def __call__(self, x, t, y):
        """Noise and variance (batch, 2 channels, height, width) of latents, timesteps and labels."""
        weights, patch = self.weights, self.patch
        grid = x.shape[2] // patch
        h = functional.conv2d(x, weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"], stride=patch)
        h = h.flatten(2).transpose(1, 2) + weights["pos_embed"]
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        angles = t[:, None].float() * frequencies
        c = torch.cat([angles.cos(), angles.sin()], dim=1)
        c = self.linear("t_embedder.mlp.2", functional.silu(self.linear("t_embedder.mlp.0", c)))
        c = functional.silu(c + weights["y_embedder.embedding_table.weight"][y])
        for block in range(self.depth):
            name = f"blocks.{block}"
            shift1, scale1, gate1, shift2, scale2, gate2 = self.linear(name + ".adaLN_modulation.1", c).chunk(6, dim=1)
            h = h + gate1[:, None] * self.attention(name + ".attn", self.modulated(h, shift1, scale1))
            u = self.linear(name + ".mlp.fc1", self.modulated(h, shift2, scale2))
            h = h + gate2[:, None] * self.linear(name + ".mlp.fc2", functional.gelu(u, approximate="tanh"))
        shift, scale = self.linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=1)
        h = self.linear("final_layer.linear", self.modulated(h, shift, scale))
        h = h.view(-1, grid, grid, patch, patch, 2 * self.channels)
        return h.permute(0, 5, 1, 3, 2, 4).reshape(-1, 2 * self.channels, grid * patch, grid * patch)

    def sample(self, noise, labels, steps, guidance):
        """Latents by DDIM with the spacing `ddimN`, guided on the first three channels."""
        x, count = noise, len(labels)
        y = torch.tensor(labels + [self.classes] * count)
        for t, alpha, before in noise_schedule(steps):
            output = self(torch.cat([x, x]), torch.full((2 * count,), t), y)[:, : self.channels]
            conditional, free = output.chunk(2)
            epsilon = conditional.clone()
            epsilon[:, :3] = (free + guidance * (conditional - free))[:, :3]
            start = (x - math.sqrt(1 - alpha) * epsilon) / math.sqrt(alpha)
            x = math.sqrt(before) * start + math.sqrt(1 - before) * epsilon
        return x


def noise_schedule(steps):
    """Timestep, cumulative alpha and that of the next step, in the order of sampling (`ddimN`)."""
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).tolist()
    stride = next(i for i in range(1, 1000) if len(range(0, 1000, i)) == steps)
    chain = [(t, alphas[t]) for t in range(0, 1000, stride)]
    return [(t, alpha, before) for (t, alpha), (_, before) in zip(chain, [(0, 1.0)] + chain)][::-1]


def position_table(grid, width):
    """The fixed sin-cos table (1, grid * grid, width): sines and cosines of the column, then of the row."""
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    parts = []
    for coordinate in (columns, rows):
        angles = coordinate.reshape(-1, 1).double() * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1).float()[None]


class Autoencoder:
    """AutoencoderKL in the size of Stable Diffusion; its decoder can be run."""

    CHANNELS, LAYERS, GROUPS, LATENTS = [128, 256, 512, 512], 2, 32, 4

    def __init__(self, weights):
        self.weights = weights

    @classmethod
    def config(cls):
        """What diffusers keeps in `config.json`."""
        return {
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": cls.LATENTS,
            "block_out_channels": cls.CHANNELS,
            "layers_per_block": cls.LAYERS,
            "norm_num_groups": cls.GROUPS,
            "down_block_types": ["DownEncoderBlock2D"] * len(cls.CHANNELS),
            "up_block_types": ["UpDecoderBlock2D"] * len(cls.CHANNELS),
            "scaling_factor": SCALING_FACTOR,
            "sample_size": 256,
        }

    @classmethod
    def random(cls, seed=0):
        """Random weights of the encoder and the decoder under the names of diffusers."""
        generator = torch.Generator().manual_seed(seed)
        weights = {}

        def layer(name, *shape, gain=1.0):
            fan_in = math.prod(shape[1:])
            weights[name + ".weight"] = torch.randn(shape, generator=generator) * gain / fan_in**0.5
            weights[name + ".bias"] = torch.randn(shape[0], generator=generator) * 0.1

        def norm(name, channels):
            weights[name + ".weight"] = 1 + 0.2 * torch.randn(channels, generator=generator)
            weights[name + ".bias"] = 0.2 * torch.randn(channels, generator=generator)

        def residual(name, inputs, outputs):
            norm(name + ".norm1", inputs)
            layer(name + ".conv1", outputs, inputs, 3, 3)
            norm(name + ".norm2", outputs)
            layer(name + ".conv2", outputs, outputs, 3, 3)
            if inputs != outputs:
                layer(name + ".conv_shortcut", outputs, inputs, 1, 1)

        def middle(name, channels):
            residual(name + ".resnets.0", channels, channels)
            norm(name + ".attentions.0.group_norm", channels)
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                layer(f"{name}.attentions.0.{part}", channels, channels)
            residual(name + ".resnets.1", channels, channels)

        stages, last = cls.CHANNELS, len(cls.CHANNELS) - 1
        layer("encoder.conv_in", stages[0], 3, 3, 3)
        inputs = stages[0]
        for stage, channels in enumerate(stages):
            for index in range(cls.LAYERS):
                residual(f"encoder.down_blocks.{stage}.resnets.{index}", inputs, channels)
                inputs = channels
            if stage < last:
                layer(f"encoder.down_blocks.{stage}.downsamplers.0.conv", channels, channels, 3, 3)
        middle("encoder.mid_block", inputs)
        norm("encoder.conv_norm_out", inputs)
        layer("encoder.conv_out", 2 * cls.LATENTS, inputs, 3, 3)
        layer("quant_conv", 2 * cls.LATENTS, 2 * cls.LATENTS, 1, 1)
        layer("post_quant_conv", cls.LATENTS, cls.LATENTS, 1, 1)
        # Unscaled latents have a deviation of several; the first layer brings it near one.
        layer("decoder.conv_in", inputs, cls.LATENTS, 3, 3, gain=SCALING_FACTOR)
        middle("decoder.mid_block", inputs)
        for stage, channels in enumerate(reversed(stages)):
            for index in range(cls.LAYERS + 1):
                residual(f"decoder.up_blocks.{stage}.resnets.{index}", inputs, channels)
                inputs = channels
            if stage < last:
                layer(f"decoder.up_blocks.{stage}.upsamplers.0.conv", channels, channels, 3, 3)
        norm("decoder.conv_norm_out", inputs)
        layer("decoder.conv_out", 3, inputs, 3, 3, gain=0.5)
        return cls(weights)

    def convolution(self, name, x):
        weight = self.weights[name + ".weight"]
        return functional.conv2d(x, weight, self.weights[name + ".bias"], padding=weight.shape[-1] // 2)

    def norm(self, name, x):
        return functional.group_norm(
            x, self.GROUPS, self.weights[name + ".weight"], self.weights[name + ".bias"], eps=1e-6)

    def residual(self, name, x):
        h = self.convolution(name + ".conv1", functional.silu(self.norm(name + ".norm1", x)))
        h = self.convolution(name + ".conv2", functional.silu(self.norm(name + ".norm2", h)))
        if name + ".conv_shortcut.weight" in self.weights:
            x = self.convolution(name + ".conv_shortcut", x)
        return x + h

    def attention(self, name, x):
        h = self.norm(name + ".group_norm", x).flatten(2).transpose(1, 2)
        q, k, v = (self.project(f"{name}.{part}", h) for part in ("to_q", "to_k", "to_v"))
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
        h = self.project(name + ".to_out.0", scores.softmax(dim=2) @ v)
        return x + h.transpose(1, 2).reshape(x.shape)

    def project(self, name, x):
        return functional.linear(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def decode(self, latents):
        """Images (batch, 3, 8 height, 8 width) of latents as diffusion sees them."""
        h = self.convolution("post_quant_conv", latents / SCALING_FACTOR)
        h = self.convolution("decoder.conv_in", h)
        h = self.residual("decoder.mid_block.resnets.0", h)
        h = self.attention("decoder.mid_block.attentions.0", h)
        h = self.residual("decoder.mid_block.resnets.1", h)
        for stage in range(len(self.CHANNELS)):
            for index in range(self.LAYERS + 1):
                h = self.residual(f"decoder.up_blocks.{stage}.resnets.{index}", h)
            name = f"decoder.up_blocks.{stage}.upsamplers.0.conv"
            if name + ".weight" in self.weights:
                h = self.convolution(name, functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.convolution("decoder.conv_out", functional.silu(self.norm("decoder.conv_norm_out", h)))

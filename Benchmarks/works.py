"""The works of `espalier bench` as PyTorch modules, for ratios on the same machine (pip install torch).

Each maker returns (module, inputs); sizes and names are those of Sources/espalier/Bench/BenchWork.swift.
"""

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head attention over all tokens."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with GELU."""

    def __init__(self, width, ratio):
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class CausalConvolution(nn.Conv1d):
    """A depthwise convolution that sees a token and those before it; (batch, tokens, width)."""

    def __init__(self, width, taps):
        super().__init__(width, width, taps, groups=width, padding=taps - 1)

    def forward(self, x):
        return super().forward(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)


class Hyena(nn.Module):
    """Hyena-SE (both filters), Hyena-X (short filter) and Hyena-Y (inner filter), 4 taps each."""

    def __init__(self, width, short, inner, taps=4):
        super().__init__()
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.short = CausalConvolution(3 * width, taps) if short else nn.Identity()
        self.inner = CausalConvolution(width, taps) if inner else nn.Identity()

    def forward(self, x):
        q, k, v = self.short(self.in_proj(x)).chunk(3, dim=-1)
        return self.out_proj(q * self.inner(k * v))


class Block(nn.Module):
    """An adaLN-Zero block of a DiT."""

    def __init__(self, width, heads):
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width, 4)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)[:, None].chunk(6, dim=-1)
        norm = (x.shape[-1],)
        x = x + gate1 * self.attn(functional.layer_norm(x, norm, eps=1e-6) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(functional.layer_norm(x, norm, eps=1e-6) * (1 + scale2) + shift2)


class Transformer(nn.Module):
    """28 blocks with linear embeddings: the same matrix products as a DiT's."""

    def __init__(self, width, heads, patch):
        super().__init__()
        self.embed = nn.Linear(4 * patch**2, width)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(28))
        self.modulation = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, 8 * patch**2)

    def forward(self, x, t):
        x = self.embed(x)
        c = functional.silu(self.time(t))
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=-1)
        return self.last(functional.layer_norm(x, (x.shape[-1],), eps=1e-6) * (1 + scale) + shift)


class Residual(nn.Module):
    """A residual block of the autoencoder."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, inputs), nn.GroupNorm(32, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x):
        y = self.conv1(functional.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(functional.silu(self.norm2(y)))


class SpatialAttention(nn.Module):
    """The autoencoder's attention with one head over all positions."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(32, width)
        self.attn = Attention(width, 1)

    def forward(self, x):
        y = self.attn(self.norm(x).flatten(2).transpose(1, 2))
        return x + y.transpose(1, 2).reshape(x.shape)


class Upsample(nn.Module):
    """Twice as large, nearest, then a convolution."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def decoder():
    """The decoder of Stable Diffusion's autoencoder."""
    widths = [512, 512, 256, 128]
    layers = [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 512, 3, padding=1)]
    layers += [Residual(512, 512), SpatialAttention(512), Residual(512, 512)]
    before = 512
    for index, width in enumerate(widths):
        for _ in range(3):
            layers.append(Residual(before, width))
            before = width
        if index < 3:
            layers.append(Upsample(width))
    layers += [nn.GroupNorm(32, 128), nn.SiLU(), nn.Conv2d(128, 3, 3, padding=1)]
    return nn.Sequential(*layers)


def transformer(width, heads, patch, batch):
    network = Transformer(width, heads, patch)
    return network, (torch.randn(batch, 256, 4 * patch**2), torch.randn(batch, 256))


FORWARD = {
    "forward_1": lambda: transformer(1152, 16, 2, 1),
    "forward_2": lambda: transformer(1152, 16, 2, 2),
    "decode": lambda: (decoder(), (torch.randn(1, 4, 32, 32),)),
    "demo_forward_1": lambda: transformer(64, 4, 1, 1),
    "demo_forward_8": lambda: transformer(64, 4, 1, 8),
}

# Operator and loss.
STAGE1 = {
    "stage1_hyena_x": (lambda: Hyena(1152, short=True, inner=False), functional.l1_loss),
    "stage1_mha": (lambda: Attention(1152, 16), functional.l1_loss),
    "stage1_hyena_se": (lambda: Hyena(1152, short=True, inner=True), functional.l1_loss),
    "stage1_hyena_y": (lambda: Hyena(1152, short=False, inner=True), functional.l1_loss),
    "stage1_mlp_r3": (lambda: Mlp(1152, 3), functional.mse_loss),
    "stage1_mlp_r6": (lambda: Mlp(1152, 6), functional.mse_loss),
}

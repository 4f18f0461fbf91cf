"""The autoencoder and the judge of the shipped model as PyTorch modules, for their training."""

import math

import torch.nn.functional as F
from torch import nn

CLASSES = ["disc", "ring", "square", "diamond ring", "triangle", "cross", "star", "crescent", "stripes", "leaf"]
CHANNELS = [16, 32, 64]
LATENT = 4
LAYERS = 1
GROUPS = 4


# The autoencoder -----------------------------------------------------------------------------


def norm(channels):
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def conv3(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Resnet(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), conv3(inputs, outputs)
        self.norm2, self.conv2 = norm(outputs), conv3(outputs, outputs)
        nn.init.zeros_(self.conv2.weight)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.group_norm = norm(channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x):
        b, c, h, w = x.shape
        t = self.group_norm(x).reshape(b, c, h * w).transpose(1, 2)
        scores = self.to_q(t) @ self.to_k(t).transpose(1, 2) / math.sqrt(c)
        t = self.to_out[0](scores.softmax(-1) @ self.to_v(t))
        return x + t.transpose(1, 2).reshape(b, c, h, w)


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """The residual blocks of one resolution, then a change of resolution unless it is the last."""

    def __init__(self, inputs, outputs, layers, resampler):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(inputs if i == 0 else outputs, outputs) for i in range(layers))
        if resampler is not None:
            kind = "downsamplers" if isinstance(resampler, Downsample) else "upsamplers"
            setattr(self, kind, nn.ModuleList([resampler]))

    def forward(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        for resampler in getattr(self, "downsamplers", []):
            x = resampler(x)
        for resampler in getattr(self, "upsamplers", []):
            x = resampler(x)
        return x


class Middle(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(channels, channels), Resnet(channels, channels)])
        self.attentions = nn.ModuleList([Attention(channels)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [CHANNELS[0]] + CHANNELS
        last = len(CHANNELS) - 1
        self.conv_in = conv3(3, widths[0])
        self.down_blocks = nn.ModuleList(
            Stage(widths[i], widths[i + 1], LAYERS, Downsample(widths[i + 1]) if i < last else None)
            for i in range(last + 1)
        )
        self.mid_block = Middle(widths[-1])
        self.conv_norm_out, self.conv_out = norm(widths[-1]), conv3(widths[-1], 2 * LATENT)

    def forward(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [CHANNELS[-1]] + CHANNELS[::-1]
        last = len(CHANNELS) - 1
        self.conv_in = conv3(LATENT, widths[0])
        self.mid_block = Middle(widths[0])
        self.up_blocks = nn.ModuleList(
            Stage(widths[i], widths[i + 1], LAYERS + 1, Upsample(widths[i + 1]) if i < last else None)
            for i in range(last + 1)
        )
        self.conv_norm_out, self.conv_out = norm(widths[-1]), conv3(widths[-1], 3)

    def forward(self, x):
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()
        self.quant_conv = nn.Conv2d(2 * LATENT, 2 * LATENT, 1)
        self.post_quant_conv = nn.Conv2d(LATENT, LATENT, 1)

    def encode(self, x):
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


# The judge -----------------------------------------------------------------------------------


class Judge(nn.Module):
    """3x3 convolutions of stride 2 with ReLU, the mean over positions (the features), one linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(64, 64, 3, stride=2, padding=1)
        self.fc = nn.Linear(64, len(CLASSES))

    def features(self, x):
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(conv(x))
        return x.mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))

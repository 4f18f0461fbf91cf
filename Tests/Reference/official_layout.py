"""Files of the official grafting repository: its modules load ours with strict=True, and ours opens its.

    pip install torch numpy pyyaml
    make build && python3 Tests/Reference/official_layout.py

The modules below have the parameter names, constructor arguments and defaults of keshik6/grafting and of
what it builds on (timm, flash-attn, mamba-ssm); the formulas are written anew from the papers. Every
operator goes into two blocks of a DiT-S/2, from its shipped YAML and from one with only the keys that the
official constructor asks for.
"""

import argparse
import json
import math
import os
import tempfile

import numpy as np
import torch
import yaml
from torch import nn
from torch.nn import functional

from reference import DiT as PlainDiT
from reference import noise_schedule
from round_trip import Program

WIDTH, HEADS, DEPTH, TOKENS = 384, 6, 12, 256
BLOCKS = [3, 8]


def heads_of(x, heads):
    """(batch, tokens, width) -> (batch, heads, tokens, width / heads)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """timm's attention."""

    def __init__(self, dim, num_heads=8, qkv_bias=False):
        super().__init__()
        self.heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = (heads_of(part, self.heads) for part in self.qkv(x).chunk(3, dim=2))
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class WindowAttention(nn.Module):
    """flash-attn's MHA with a window along the sequence."""

    def __init__(self, embed_dim, num_heads, window_size=(-1, -1), use_flash_attn=False, **others):
        super().__init__()
        self.heads, self.window = num_heads, window_size
        self.Wqkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x):
        q, k, v = (heads_of(part, self.heads) for part in self.Wqkv(x).chunk(3, dim=2))
        offset = torch.arange(x.shape[1])[None] - torch.arange(x.shape[1])[:, None]
        left, right = (side if side >= 0 else x.shape[1] for side in self.window)
        mask = (offset >= -left) & (offset <= right)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class CausalFilter(nn.Conv1d):
    """A depthwise convolution that sees the past alone, along the last axis."""

    def __init__(self, channels, taps):
        super().__init__(channels, channels, taps, groups=channels)

    def forward(self, x):
        return super().forward(functional.pad(x, (self.kernel_size[0] - 1, 0)))


class HyenaSE(nn.Module):
    def __init__(self, d_model, l_max, order=2, inner_filter_len=4, num_heads=1, inner_factor=1, num_blocks=1,
                 short_filter_order=4, activation="id"):
        super().__init__()
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.short_filter = CausalFilter(3 * d_model, short_filter_order)
        self.inner_filter = CausalFilter(d_model, short_filter_order)

    def forward(self, x):
        q, k, v = self.short_filter(self.in_proj(x).transpose(1, 2)).chunk(3, dim=1)
        return self.out_proj((q * self.inner_filter(k * v)).transpose(1, 2))


class HyenaX(nn.Module):
    def __init__(self, d_model, l_max, order=2, num_heads=1, inner_factor=1, num_blocks=1, short_filter_order=4,
                 activation="id"):
        super().__init__()
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.short_filter = CausalFilter(3 * d_model, short_filter_order)

    def forward(self, x):
        q, k, v = self.short_filter(self.in_proj(x).transpose(1, 2)).chunk(3, dim=1)
        return self.out_proj((q * k * v).transpose(1, 2))


class HyenaY(nn.Module):
    def __init__(self, d_model, l_max, order=2, inner_filter_len=4, num_heads=1, inner_factor=1, num_blocks=1,
                 activation="id"):
        super().__init__()
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.inner_filter = CausalFilter(d_model, inner_filter_len)

    def forward(self, x):
        q, k, v = self.in_proj(x).transpose(1, 2).chunk(3, dim=1)
        return self.out_proj((q * self.inner_filter(k * v)).transpose(1, 2))


class Scale(nn.Module):
    """A norm's weight under its usual name."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.2 * torch.randn(width))


class Mamba2(nn.Module):
    def __init__(self, d_model, d_state=128, d_conv=4, expand=2, headdim=64, ngroups=1, chunk_size=256):
        super().__init__()
        inner = expand * d_model
        self.inner, self.state, self.groups, self.heads = inner, d_state, ngroups, inner // headdim
        convolved = inner + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, inner + convolved + self.heads, bias=False)
        self.conv1d = CausalFilter(convolved, d_conv)
        self.dt_bias = nn.Parameter(torch.randn(self.heads))
        self.A_log = nn.Parameter(torch.rand(self.heads))
        self.D = nn.Parameter(torch.randn(self.heads))
        self.norm = Scale(inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, x):
        states = self.groups * self.state
        z, mixed, dt = self.in_proj(x).split([self.inner, self.inner + 2 * states, self.heads], dim=2)
        mixed = functional.silu(self.conv1d(mixed.transpose(1, 2)).transpose(1, 2))
        u, b, c = mixed.split([self.inner, states, states], dim=2)
        u = u.unflatten(2, (self.heads, -1))
        repeats = self.heads // self.groups
        b, c = (part.unflatten(2, (self.groups, -1)).repeat_interleave(repeats, dim=2) for part in (b, c))
        dt = functional.softplus(dt + self.dt_bias)
        decay = torch.exp(-dt * self.A_log.exp())
        state, outputs = 0, []
        for step in range(x.shape[1]):
            added = dt[:, step, :, None, None] * u[:, step, :, :, None] * b[:, step, :, None, :]
            state = decay[:, step, :, None, None] * state + added
            outputs.append((state * c[:, step, :, None, :]).sum(dim=3) + self.D[:, None] * u[:, step])
        gated = torch.stack(outputs, dim=1).flatten(2) * functional.silu(z)
        grouped = gated.unflatten(2, (self.groups, -1))
        normed = grouped * torch.rsqrt(grouped.square().mean(dim=3, keepdim=True) + 1e-5)
        return self.out_proj(normed.flatten(2) * self.norm.weight)


class Mlp(nn.Module):
    """timm's MLP, as the official factory calls it."""

    def __init__(self, d_model, expansion_ratio, dropout):
        super().__init__()
        self.fc1 = nn.Linear(d_model, int(d_model * expansion_ratio))
        self.fc2 = nn.Linear(int(d_model * expansion_ratio), d_model)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class MlpHyenaX(nn.Module):
    def __init__(self, d_model, l_max, expansion_ratio=2, order=2, inner_factor=1, num_heads=1, num_blocks=1,
                 short_filter_order=4):
        super().__init__()
        self.in_proj = nn.Linear(d_model, 3 * d_model * expansion_ratio)
        self.out_proj = nn.Linear(d_model * expansion_ratio, d_model)
        self.short_filter = CausalFilter(l_max, short_filter_order)

    def forward(self, x):
        q, k, v = self.short_filter(self.in_proj(x)).chunk(3, dim=2)
        return self.out_proj(q * k * v)


class Tower(nn.Module):
    """Modules by name, for the nesting of the official state dict."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def modulation(outputs):
    return nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, outputs * WIDTH))


class DiT(nn.Module):
    """DiT-S/2 in the nesting of the official class; it computes through `reference.DiT`'s formulas."""

    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, TOKENS, WIDTH), requires_grad=False)
        self.x_embedder = Tower(proj=nn.Conv2d(4, WIDTH, 2, stride=2))
        self.t_embedder = Tower(mlp=nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)))
        self.y_embedder = Tower(embedding_table=nn.Embedding(1001, WIDTH))
        self.blocks = nn.ModuleList(
            Tower(attn=Attention(WIDTH, HEADS, qkv_bias=True), mlp=Mlp(WIDTH, 4, 0), adaLN_modulation=modulation(6))
            for _ in range(DEPTH))
        self.final_layer = Tower(linear=nn.Linear(WIDTH, 32), adaLN_modulation=modulation(2))

    def forward(self, x, t, y):
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(128) / 128)
        c = self.t_embedder.mlp(torch.cat([angles.cos(), angles.sin()], dim=1)) + self.y_embedder.embedding_table(y)
        norm = lambda x, shift, scale: functional.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale) + shift
        for block in self.blocks:
            parts = block.adaLN_modulation(c)[:, None].chunk(6, dim=2)
            h = h + parts[2] * block.attn(norm(h, *parts[:2]))
            h = h + parts[5] * block.mlp(norm(h, *parts[3:5]))
        h = self.final_layer.linear(norm(h, *self.final_layer.adaLN_modulation(c)[:, None].chunk(2, dim=2)))
        h = h.view(-1, 16, 16, 2, 2, 8).permute(0, 5, 1, 3, 2, 4)
        return h.reshape(-1, 8, 32, 32)

    @torch.no_grad()
    def sample(self, noise, labels, steps=2, guidance=2.0):
        """Latents by DDIM, guided on the first three channels."""
        x, y = noise, torch.tensor(labels + [1000] * len(labels))
        for t, alpha, before in noise_schedule(steps):
            conditional, free = self(torch.cat([x, x]), torch.full((len(y),), t), y)[:, :4].chunk(2)
            epsilon = conditional.clone()
            epsilon[:, :3] = (free + guidance * (conditional - free))[:, :3]
            start = (x - math.sqrt(1 - alpha) * epsilon) / math.sqrt(alpha)
            x = math.sqrt(before) * start + math.sqrt(1 - before) * epsilon
        return x.numpy()


CLASSES = {
    "hyena_se": HyenaSE, "hyena_x": HyenaX, "hyena_y": HyenaY, "mamba2": Mamba2, "mlp": Mlp,
    "mlp_hyena_x": MlpHyenaX,
}
HYENA = {"d_model": WIDTH, "l_max": 1000000, "order": 2, "inner_factor": 1, "num_heads": 1, "num_blocks": 1}
FLASH = {
    "embed_dim": WIDTH, "num_heads": HEADS, "num_heads_kv": None, "cross_attn": False, "qkv_proj_bias": True,
    "out_proj_bias": True, "dropout": 0.0, "softmax_scale": None, "causal": False, "layer_idx": None,
    "dwconv": False, "rotary_emb_dim": 0, "rotary_emb_base": 10000.0, "window_size": [4, 4],
    "fused_bias_fc": True, "use_flash_attn": True, "return_residual": False, "checkpointing": False,
    "device": None, "dtype": None,
}
# Operator, type, and configurations: like the released file, and as short as the constructor allows.
OPERATORS = [
    ("mha", "mha", {"dim": WIDTH, "qkv_bias": True, "num_heads": HEADS}, {"dim": WIDTH}),
    ("swa", "mha", FLASH, {"use_flash_attn": True, "num_heads": HEADS, "embed_dim": WIDTH}),
    ("hyena_se", "mha", {**HYENA, "inner_filter_len": 7, "short_filter_order": 5, "activation": "id"},
     {"l_max": 256, "d_model": WIDTH}),
    ("hyena_x", "mha", {**HYENA, "short_filter_order": 6}, {"l_max": 256, "d_model": WIDTH}),
    ("hyena_y", "mha", {**HYENA, "inner_filter_len": 3}, {"l_max": 256, "d_model": WIDTH}),
    ("mamba2", "mha", {"headdim": 16, "expand": 2, "d_conv": 4, "d_state": 64, "d_model": WIDTH},
     {"d_model": WIDTH}),
    ("mlp", "mlp", {"d_model": WIDTH, "expansion_ratio": 3, "dropout": 0.0},
     {"dropout": 0, "expansion_ratio": 6, "d_model": WIDTH}),
    ("mlp_hyena_x", "mlp",
     {"d_model": WIDTH, "l_max": TOKENS, "expansion_ratio": 2, "order": 2, "inner_factor": 1, "num_heads": 1,
      "num_blocks": 1, "short_filter_order": 4}, {"l_max": TOKENS, "d_model": WIDTH}),
]


def factory(name, path):
    """An operator from a YAML file, by the rules of the official factory."""
    config = yaml.safe_load(open(path))
    if "mha" in name or "swa" in name:
        if "use_flash_attn" not in config:
            return Attention(**config)
        assert config["use_flash_attn"] is True
        return WindowAttention(**config)
    return CLASSES[name](**config)


def graft(path, teacher):
    """A grafted model from a sampling configuration, by the rules of the official loader."""
    config = yaml.safe_load(open(path))
    operator, sampling = config["operator"], config["sample_config"]
    assert sampling["dit_model_name"] == "DiT-S/2" and sampling["image_size"] == 256
    model = DiT()
    model.load_state_dict(teacher, strict=True)
    for index in sampling["graft_indexes"]:
        module = factory(operator["name"], operator["config_filepath"])
        weights = sampling["graft_weights"]
        if weights is not None and index in weights:
            module.load_state_dict(torch.load(weights[index], weights_only=False)["model"], strict=True)
        setattr(model.blocks[index], {"mha": "attn", "mlp": "mlp"}[operator["type"]], module)
    if sampling["grafted_dit_ckpt_path"] not in (None, "None"):
        model.load_state_dict(torch.load(sampling["grafted_dit_ckpt_path"])["ema"], strict=True)
    return model


class Check:
    """One operator, from official files to ours and back."""

    def __init__(self, espalier, folder, name, kind, config, teacher, noise):
        self.espalier, self.folder, self.name, self.kind = espalier, folder, name, kind
        self.teacher, self.noise = teacher, noise
        with open(f"{folder}/op.yaml", "w") as file:
            yaml.safe_dump(config, file, sort_keys=False)

    def write(self, **values):
        config = {
            "operator": {"type": self.kind, "name": self.name, "config_filepath": f"{self.folder}/op.yaml"},
            "sample_config": {
                "init_type": "graft", "global_seed": 0, "dit_model_name": "DiT-S/2", "image_size": 256,
                "grafted_dit_ckpt_path": None, "graft_indexes": BLOCKS, "graft_weights": None, **values},
        }
        with open(f"{self.folder}/graft.yaml", "w") as file:
            yaml.safe_dump(config, file, sort_keys=False)

    def require(self, what, found, expected):
        scale = np.abs(expected).max()
        worst = np.abs(found - expected).max() / scale
        assert worst < 2e-4, f"{self.name}: {what}: differs by {worst:.1e} of {scale:.2f}"

    def latents(self, *arguments):
        self.espalier("sample", *arguments, "--noise", "noise.npy", "--classes", "1,7", "--steps", 2,
                      "--precision", "fp32", "--latents", "latents.npy")
        return np.load(f"{self.folder}/latents.npy")

    def run(self):
        folder, espalier = self.folder, self.espalier
        # Official stage-1 checkpoints.
        weights = {}
        for block in BLOCKS:
            module = factory(self.name, f"{folder}/op.yaml")
            weights[block] = f"{folder}/best_train_{block}.pt"
            torch.save(
                {"model": module.state_dict(), "epoch": 199, "args": argparse.Namespace(block_index=block)},
                weights[block])
        self.write(graft_weights=weights)
        official = graft(f"{folder}/graft.yaml", self.teacher)
        expected = official.sample(self.noise, [1, 7])
        espalier("plan", "import", "graft.yaml", "plan.json", "--model", "teacher.pt", "--weights",
                 "operators.safetensors", "--force")
        graft_of = ["teacher.pt", "--plan", "plan.json", "--weights", "operators.safetensors"]
        self.require("stage-1 checkpoints", self.latents(*graft_of), expected)

        # An official grafted checkpoint: by itself if its weights tell all, and with its YAML.
        torch.save({"ema": official.state_dict()}, f"{folder}/model.pt")
        self.require("model.pt with its YAML", self.latents("model.pt", "--plan", "graft.yaml"), expected)
        report = json.loads(espalier("inspect", "model.pt", "--json"))
        shown = {int(site.split(".")[0]) for site in report["edits"]}
        if not report["notes"]:
            self.require("model.pt", self.latents("model.pt"), expected)
        assert shown in ({*BLOCKS}, set()), f"{self.name}: inspect shows {shown}"

        # Ours, for the official loader.
        espalier("convert", *graft_of, "--to", "ours.pt", "--entry", "ema")
        espalier("convert", *graft_of, "--to", "ours.safetensors")
        official.load_state_dict(torch.load(f"{folder}/ours.pt")["ema"], strict=True)
        self.require("convert --entry ema", official.sample(self.noise, [1, 7]), expected)
        for options in [["--weights", "operators.safetensors"], ["--weights", "ours.safetensors"],
                        ["--grafted-checkpoint", "ours.safetensors"], ["--grafted-checkpoint", "model.pt"]]:
            espalier("plan", "export", "plan.json", f"{folder}/out", *options, "--force")
            exported = graft(f"{folder}/out/graft.yaml", self.teacher)
            self.require(f"plan export {options}", exported.sample(self.noise, [1, 7]), expected)
        return shown


def finetuned(espalier, folder):
    """What was gathered and what is published are both taken by stage 2."""
    np.save(f"{folder}/data/latents.npy", np.random.default_rng(0).standard_normal((4, 4, 32, 32), np.float32))
    np.save(f"{folder}/data/labels.npy", np.arange(4))
    plan = json.load(open(f"{folder}/plan.json"))
    plan["stage2"].update(steps=1, batch_size=1, held_out_samples=1)
    json.dump(plan, open(f"{folder}/plan.json", "w"))
    for source in ["operators.safetensors", "model.pt"]:
        espalier("finetune", "plan.json", "--from", source, "--data", "data", "--runs", "runs", "--json")
        print(f"finetune --from {source}: done")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--espalier", default=".build/release/espalier")
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        espalier = Program(options.espalier, folder)
        teacher = PlainDiT.random(depth=DEPTH, width=WIDTH, heads=HEADS).weights
        torch.save(teacher, f"{folder}/teacher.pt")
        noise = torch.randn(2, 4, 32, 32)
        np.save(f"{folder}/noise.npy", noise.numpy())
        for name, kind, *configs in OPERATORS:
            for config in configs:
                shown = Check(espalier, folder, name, kind, config, teacher, noise).run()
                print(f"{name} {config}: in both directions, {'recognised' if shown else 'as the pretrained operator'}")
        os.makedirs(f"{folder}/data")
        finetuned(espalier, folder)


if __name__ == "__main__":
    main()

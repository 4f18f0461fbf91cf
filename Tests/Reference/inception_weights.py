"""Writes random Inception v3 weights under the names of the PyTorch ports.

    python Tests/Reference/inception_weights.py OUT.safetensors [SEED]

With such a file `espalier evaluate SET --reference REF --inception OUT.safetensors` can be tried and
compared with other programs without the published weights. Needs numpy and safetensors.
"""
import sys

import numpy as np
from safetensors.numpy import save_file


def layout():
    units = {"Conv2d_1a_3x3": (3, 32, 3, 3), "Conv2d_2a_3x3": (32, 32, 3, 3), "Conv2d_2b_3x3": (32, 64, 3, 3),
             "Conv2d_3b_1x1": (64, 80, 1, 1), "Conv2d_4a_3x3": (80, 192, 3, 3)}
    for block, inputs, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        units.update({f"Mixed_{block}.{name}": shape for name, shape in {
            "branch1x1": (inputs, 64, 1, 1), "branch5x5_1": (inputs, 48, 1, 1), "branch5x5_2": (48, 64, 5, 5),
            "branch3x3dbl_1": (inputs, 64, 1, 1), "branch3x3dbl_2": (64, 96, 3, 3),
            "branch3x3dbl_3": (96, 96, 3, 3), "branch_pool": (inputs, pool, 1, 1)}.items()})
    units.update({f"Mixed_6a.{name}": shape for name, shape in {
        "branch3x3": (288, 384, 3, 3), "branch3x3dbl_1": (288, 64, 1, 1), "branch3x3dbl_2": (64, 96, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3)}.items()})
    for block, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        units.update({f"Mixed_{block}.{name}": shape for name, shape in {
            "branch1x1": (768, 192, 1, 1), "branch7x7_1": (768, width, 1, 1), "branch7x7_2": (width, width, 1, 7),
            "branch7x7_3": (width, 192, 7, 1), "branch7x7dbl_1": (768, width, 1, 1),
            "branch7x7dbl_2": (width, width, 7, 1), "branch7x7dbl_3": (width, width, 1, 7),
            "branch7x7dbl_4": (width, width, 7, 1), "branch7x7dbl_5": (width, 192, 1, 7),
            "branch_pool": (768, 192, 1, 1)}.items()})
    units.update({f"Mixed_7a.{name}": shape for name, shape in {
        "branch3x3_1": (768, 192, 1, 1), "branch3x3_2": (192, 320, 3, 3), "branch7x7x3_1": (768, 192, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7), "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3)}.items()})
    for block, inputs in (("7b", 1280), ("7c", 2048)):
        units.update({f"Mixed_{block}.{name}": shape for name, shape in {
            "branch1x1": (inputs, 320, 1, 1), "branch3x3_1": (inputs, 384, 1, 1), "branch3x3_2a": (384, 384, 1, 3),
            "branch3x3_2b": (384, 384, 3, 1), "branch3x3dbl_1": (inputs, 448, 1, 1),
            "branch3x3dbl_2": (448, 384, 3, 3), "branch3x3dbl_3a": (384, 384, 1, 3),
            "branch3x3dbl_3b": (384, 384, 3, 1), "branch_pool": (inputs, 192, 1, 1)}.items()})
    return units


def main():
    draw = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    tensors = {}
    for name, (inputs, outputs, height, width) in layout().items():
        scale = np.sqrt(6 / (inputs * height * width))
        tensors[f"{name}.conv.weight"] = draw.uniform(-scale, scale, (outputs, inputs, height, width))
        tensors[f"{name}.bn.weight"] = draw.uniform(0.75, 1.25, outputs)
        tensors[f"{name}.bn.bias"] = draw.uniform(-0.6, 0.4, outputs)
        tensors[f"{name}.bn.running_mean"] = draw.uniform(-0.25, 0.25, outputs)
        tensors[f"{name}.bn.running_var"] = draw.uniform(0.5, 1.5, outputs)
    tensors["fc.weight"] = draw.uniform(-0.04, 0.04, (1008, 2048))
    tensors["fc.bias"] = draw.uniform(-0.5, 0.5, 1008)
    save_file({name: values.astype(np.float32) for name, values in tensors.items()}, sys.argv[1])


if __name__ == "__main__":
    main()

"""Times a forward pass of `espalier bench` in OpenVINO (pip install torch openvino nncf); compare.py calls it.

In int8 NNCF quantises weights and activations after calibration with the input that is timed.

    python3 Benchmarks/peer_openvino.py --work forward_1 --precision bf16
"""

import argparse
import contextlib
import json
import resource
import statistics
import sys
import time

import openvino
import torch

from works import FORWARD


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True, choices=sorted(FORWARD))
    parser.add_argument("--precision", choices=["fp32", "bf16", "int8"], default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    torch.manual_seed(0)
    network, inputs = FORWARD[options.work]()
    with torch.inference_mode():
        model = openvino.convert_model(network.eval(), example_input=inputs)
    for port, value in zip(model.inputs, inputs):
        port.get_node().set_partial_shape(openvino.PartialShape(value.shape))
    model.validate_nodes_and_infer_types()
    if options.precision == "int8":
        import nncf

        sample = [value.numpy() for value in inputs]
        kind = nncf.ModelType.TRANSFORMER if options.work != "decode" else None
        with contextlib.redirect_stdout(sys.stderr):
            model = nncf.quantize(model, nncf.Dataset([sample]), model_type=kind, subset_size=1)
    settings = {
        # What is not quantised runs in bfloat16.
        "INFERENCE_PRECISION_HINT": "f32" if options.precision == "fp32" else "bf16",
        "PERFORMANCE_HINT": "LATENCY",
    }
    if options.threads:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    arrays = [value.numpy() for value in inputs]
    request.infer(arrays)
    times = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        request.infer(arrays)
        times.append(time.perf_counter() - start)
    print(
        json.dumps(
            {
                "engine": f"OpenVINO {openvino.__version__.split('-')[0]}",
                "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
                "seconds": statistics.median(times),
                "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()

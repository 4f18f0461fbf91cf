"""Reads the event files of a run with TensorBoard itself and holds them against its events.

    pip install tensorboard
    python3 Tests/Reference/tensorboard_read.py RUN_DIRECTORY

Ends with 1 if a scalar is missing or differs, or an image cannot be read.
"""

import json
import math
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator, TENSORS
from tensorboard.util import tensor_util


def as_float32(value):
    return struct.unpack("<f", struct.pack("<f", float(value)))[0]


def expected_scalars(run):
    """Tag to {step: value}, later events replacing earlier ones from their step on."""
    series = {}

    def put(tag, step, value):
        points = series.setdefault(tag, {})
        for later in [s for s in points if s >= step]:
            del points[later]
        points[step] = as_float32(value)

    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["kind"] == "step":
            put("loss/train", event["step"], event["loss"])
            put("speed/steps_per_second", event["step"], event["rate"])
            for site, value in event["losses"].items():
                put(f"train/{site}", event["step"], value)
            if "learning_rate" in event:
                put("learning_rate", event["step"], event["learning_rate"])
            for site, value in event.get("learning_rates", {}).items():
                put(f"learning_rate/{site}", event["step"], value)
        elif event["kind"] == "held_out":
            losses = event["losses"]
            whole = event.get("loss", sum(map(float, losses.values())) / max(1, len(losses)))
            put("loss/held_out", event["step"], whole)
            for site, value in losses.items():
                put(f"held_out/{site}", event["step"], value)
    return series


def main():
    run = Path(sys.argv[1])
    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={TENSORS: 0})
    accumulator.Reload()
    found = {tag: accumulator.Tensors(tag) for tag in accumulator.Tags()["tensors"]}
    failures = 0
    for tag, points in sorted(expected_scalars(run).items()):
        read = {e.step: float(tensor_util.make_ndarray(e.tensor_proto)) for e in found.pop(tag, [])}
        same = read.keys() == points.keys() and all(
            math.isclose(read[step], value, rel_tol=1e-6) or str(read[step]) == str(value)
            for step, value in points.items()
        )
        failures += not same
        print(f"{tag:32} {len(read):5} of {len(points):5} points  {'same' if same else 'DIFFERENT'}")
    for tag, events in sorted(found.items()):
        plugin = accumulator.SummaryMetadata(tag).plugin_data.plugin_name
        value = tensor_util.make_ndarray(events[-1].tensor_proto)
        if plugin == "images":
            width, height, *pictures = value
            sizes = [struct.unpack(">II", picture[16:24]) for picture in pictures]
            same = sizes == [(int(width), int(height))]
            failures += not same
            print(f"{tag:32} image {sizes}  {'readable' if same else 'DAMAGED'}")
        else:
            print(f"{tag:32} step {events[-1].step}: {float(value):.6g}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Time and IoU of an exported file in onnxruntime, OpenVINO and OpenVINO with 8-bit integers.

scripts/int8.py RUN MODEL.onnx COUNT, with `pip install openvino nncf`. Training images calibrate.
The first COUNT defective images of the test part with a mask are scored, masks by Otsu. One thread.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import torch
import yaml

from ltcam_cli import segment
from ltcam_cli.data.batches import Images
from ltcam_cli.data.load import load_split, make_dataset
from ltcam_cli.data.sample import Sample
from ltcam_cli.maps.fusion import at_size
from ltcam_cli.scores.pixels import PixelCounts, pooled
from ltcam_cli.student.deploy import OnnxSource

CALIBRATION = 100  # images
Heatmap = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Measure, and print a table."""
    run, model, count = sys.argv[1:]
    values = yaml.safe_load(Path(run, "train/config.yaml").read_text())["dataset"]
    dataset = make_dataset(values)
    split, size = load_split(dataset), (dataset.height, dataset.width)
    tested = [s for s in split.test if s.label == 1 and s.mask is not None][: int(count)]
    train = [s for number, s in enumerate(split.train) if number % 3 == 0][:CALIBRATION]

    def inputs(samples: Sequence[Sample]) -> list[np.ndarray]:
        images = Images(samples, *size, dataset.channels)
        return [images[number].image[None].numpy() for number in range(len(samples))]

    source = OnnxSource(Path(model), threads=1)
    plain = ov.convert_model(model)
    whole = nncf.quantize(plain, nncf.Dataset(inputs(train)), subset_size=CALIBRATION)
    backward = backward_operators(plain)
    part = nncf.quantize(
        ov.convert_model(model),
        nncf.Dataset(inputs(train)),
        subset_size=CALIBRATION,
        ignored_scope=nncf.IgnoredScope(names=backward, validate=False),
    )
    runtimes: dict[str, Heatmap] = {
        "onnxruntime, float32": lambda x: source(torch.from_numpy(x)).maps[0][0].numpy(),
        "OpenVINO, float32": compiled(plain),
        "OpenVINO, int8": compiled(whole),
        f"OpenVINO, int8 of the forward ({len(backward)} operators float32)": compiled(part),
    }
    print(f"{len(tested)} images\n\n| runtime | median ms | IoU |\n|---|---|---|")
    pixels = inputs(tested)
    for name, heatmap in runtimes.items():
        seconds, counts = [], []
        for sample, x in zip(tested, pixels, strict=True):
            started = time.perf_counter()
            M = heatmap(x)
            seconds.append(time.perf_counter() - started)
            truth = sample.mask
            assert truth is not None
            M = at_size(torch.tensor(M)[None], truth.shape)[0]
            counts.append(PixelCounts.from_masks(segment(M, sample.image, "otsu"), truth))
        iou = 100 * pooled(counts).iou
        print(f"| {name} | {1000 * statistics.median(seconds):.1f} | {iou:.1f} |", flush=True)


def compiled(model: ov.Model) -> Heatmap:
    """The heatmap of one image by a model on the CPU, with one thread."""
    # Without the hint it computes in bfloat16 where the CPU can.
    exact = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    network = ov.compile_model(model, "CPU", exact)
    return lambda x: network(x)["heatmap"][0]


def backward_operators(model: ov.Model) -> list[str]:
    """Names of the operators that are no part of the probability: backward, truncation, fusion."""
    probability = next(o for o in model.outputs if "probability" in o.get_names())
    reached, waiting = set(), [probability.get_node()]
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in reached:
            reached.add(node.get_friendly_name())
            waiting += [value.get_source_output().get_node() for value in node.inputs()]
    names = (node.get_friendly_name() for node in model.get_ordered_ops())
    return [name for name in names if name not in reached]


if __name__ == "__main__":
    main()

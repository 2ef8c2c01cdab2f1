"""Makes qlinear_conv.json: convolutions by ONNX Runtime (QLinearConv, u8 x i8 -> u8) and by PyTorch (conv2d in f32).

Needs numpy, torch, onnx and onnxruntime. Each case is small, so that the file is. Weights of the quantized cases stay within
-63..=63: ONNX Runtime's kernels for AVX2 add pairs of u8 x i8 products in 16 bits, which saturates beyond. The exact sums are
computed here as well, and the script stops if ONNX Runtime's answer is not theirs.
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

RANDOM = np.random.default_rng(20)

# inputs, outputs, groups, height, width, kernel, stride, padding (top, left, bottom, right), dilation
CASES = [
    (3, 8, 1, 7, 6, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (4, 6, 1, 9, 8, (3, 3), (2, 2), (0, 0, 1, 1), (1, 1)),
    (4, 6, 2, 6, 7, (3, 2), (1, 2), (1, 0, 1, 0), (2, 1)),
    (5, 7, 1, 4, 5, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    (5, 7, 1, 5, 5, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    (19, 19, 19, 6, 6, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (17, 17, 17, 7, 7, (5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
    (6, 12, 6, 5, 6, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
]


def onnx_conv(x, w, bias, case, scales):
    _, _, groups, _, _, _, stride, padding, dilation = case
    x_scale, x_zero, w_scales, y_scale, y_zero = scales
    constants = {
        "x_scale": np.float32(x_scale), "x_zero": np.uint8(x_zero), "w": w, "w_scale": w_scales,
        "w_zero": np.zeros(len(w_scales), np.int8), "y_scale": np.float32(y_scale), "y_zero": np.uint8(y_zero),
        "bias": bias,
    }
    node = helper.make_node(
        "QLinearConv", ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "bias"], ["y"],
        group=groups, strides=list(stride), pads=list(padding), dilations=list(dilation),
    )
    graph = helper.make_graph(
        [node], "conv", [helper.make_tensor_value_info("x", TensorProto.UINT8, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def torch_conv(x, w, bias, case):
    _, _, groups, _, _, _, stride, (top, left, bottom, right), dilation = case
    x = torch.nn.functional.pad(x, (left, right, top, bottom))
    return torch.nn.functional.conv2d(x, w, bias, stride=stride, dilation=dilation, groups=groups)


def nhwc(image):
    return np.transpose(image, (0, 2, 3, 1)).reshape(-1)


def quantized(case):
    inputs, outputs, groups, height, width, kernel, *_ = case
    x = RANDOM.integers(0, 256, (1, inputs, height, width), dtype=np.uint8)
    w = RANDOM.integers(-63, 64, (outputs, inputs // groups, *kernel), dtype=np.int8)
    bias = RANDOM.integers(-3000, 3000, outputs, dtype=np.int32)
    x_scale, x_zero = np.float32(RANDOM.uniform(0.01, 0.05)), int(RANDOM.integers(0, 256))
    w_scales = RANDOM.uniform(0.002, 0.02, outputs).astype(np.float32)
    exact = torch_conv(torch.from_numpy(x.astype(np.float64) - x_zero), torch.from_numpy(w.astype(np.float64)),
                       torch.from_numpy(bias.astype(np.float64)), case).numpy()
    real = exact * x_scale * w_scales[None, :, None, None]
    y_scale = np.float32((real.max() - real.min()) * 0.9 / 255)
    y_zero = int(np.clip(np.rint(-real.min() * 0.9 / y_scale), 0, 255))
    y = onnx_conv(x, w, bias, case, (x_scale, x_zero, w_scales, y_scale, y_zero))
    multipliers = x_scale * w_scales / y_scale
    steps = np.rint(exact.astype(np.float32) * multipliers[None, :, None, None])
    assert np.array_equal(y, np.clip(steps + y_zero, 0, 255).astype(np.uint8)), case
    return dict(x=nhwc(x).tolist(), x_scale=float(x_scale), x_zero=x_zero, w=w.reshape(-1).tolist(),
                w_scales=w_scales.astype(float).tolist(), bias=bias.tolist(), y_scale=float(y_scale), y_zero=y_zero,
                y=nhwc(y).tolist())


def real(case):
    inputs, outputs, groups, height, width, kernel, *_ = case
    x = np.round(RANDOM.normal(0, 1, (1, inputs, height, width)), 2).astype(np.float32)
    w = np.round(RANDOM.normal(0, 0.3, (outputs, inputs // groups, *kernel)), 3).astype(np.float32)
    bias = np.round(RANDOM.normal(0, 0.5, outputs), 2).astype(np.float32)
    y = torch_conv(torch.from_numpy(x), torch.from_numpy(w), torch.from_numpy(bias), case).numpy()
    short = lambda values: [float(f"{v:.6g}") for v in values]
    return dict(x=short(nhwc(x)), w=short(w.reshape(-1)), bias=short(bias), y=short(nhwc(y)))


def main():
    cases = []
    for case in CASES:
        inputs, outputs, groups, height, width, kernel, stride, padding, dilation = case
        cases.append(dict(inputs=inputs, outputs=outputs, groups=groups, height=height, width=width, kernel=kernel,
                          stride=stride, padding=padding, dilation=dilation, quantized=quantized(case), real=real(case)))
    about = (f"NHWC images, weights outputs x inputs / groups x height x width; quantized: QLinearConv of ONNX Runtime "
             f"{onnxruntime.__version__}; real: torch.nn.functional.conv2d of PyTorch {torch.__version__.split('+')[0]}")
    path = pathlib.Path(__file__).with_suffix(".json")
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(f'{{"about": {json.dumps(about)},\n"cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()

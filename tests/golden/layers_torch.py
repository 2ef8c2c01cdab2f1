"""Answers of PyTorch's quantized layers, for tests/golden_layers.rs: python layers_torch.py > layers_torch.json

Images are NHWC. `exact` marks cases in which no order of f32 operations makes a difference: scales are powers of two.
"""

import json

import torch
from torch.nn import functional as F

torch.manual_seed(7)


def quantized(shape, scale, zero_point):
    q = torch.randint(0, 256, shape, dtype=torch.uint8)
    return torch._make_per_tensor_quantized_tensor(q, scale, zero_point)


def params(scale, zero_point):
    return {"scale": float(torch.tensor(scale, dtype=torch.float32)), "zero_point": zero_point}


def flat(tensor):
    return tensor.int_repr().flatten().tolist()


def nhwc(tensor):
    return tensor.int_repr().permute(0, 2, 3, 1).flatten().tolist()


def add_case(scales, zero_points, relu, exact):
    a, b = (quantized([60], s, z) for s, z in zip(scales[:2], zero_points[:2]))
    op = torch.ops.quantized.add_relu if relu else torch.ops.quantized.add
    y = op(a, b, scales[2], zero_points[2])
    return {
        "op": "add",
        "inputs": [flat(a), flat(b)],
        "params": [params(s, z) for s, z in zip(scales, zero_points)],
        "relu": relu,
        "y": flat(y),
        "exact": exact,
    }


def pool_case(op, shape, kernel, stride, padding, scale=0.05, zero_point=77, include=True, dilation=1):
    n, h, w, c = shape
    x = quantized([n, c, h, w], scale, zero_point).contiguous(memory_format=torch.channels_last)
    if op == "average_pool":
        y = F.avg_pool2d(x, kernel, stride, padding, count_include_pad=include)
    else:
        y = F.max_pool2d(x, kernel, stride, padding, dilation)
    return {
        "op": op,
        "shape": shape,
        "inputs": [nhwc(x)],
        "params": [params(scale, zero_point)],
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "include": include,
        "y": nhwc(y),
        "exact": True,
    }


def global_case(shape, scale, zero_point):
    n, h, w, c = shape
    x = quantized([n, c, h, w], scale, zero_point).contiguous(memory_format=torch.channels_last)
    y = F.adaptive_avg_pool2d(x, 1)
    return {
        "op": "global_average_pool",
        "shape": shape,
        "inputs": [nhwc(x)],
        "params": [params(scale, zero_point)],
        "y": nhwc(y),
        "exact": True,
    }


def linear_case(m, k, n, scales, zero_points, relu, exact):
    x = quantized([m, k], scales[0], zero_points[0])
    # 7 bits: the engine adds pairs of products in 16 bits, which saturate for larger weights.
    w = torch.randint(-63, 64, [n, k], dtype=torch.int32)
    w_scales = torch.tensor([scales[1] * 2 ** (i % 3) for i in range(n)], dtype=torch.float64)
    zeros = torch.zeros(n, dtype=torch.int64)
    qw = torch._make_per_channel_quantized_tensor(w.to(torch.int8), w_scales, zeros, 0)
    bias_steps = torch.randint(-2000, 2000, [n])
    bias = (bias_steps * w_scales * scales[0]).to(torch.float32)
    packed = torch.ops.quantized.linear_prepack(qw, bias)
    op = torch.ops.quantized.linear_relu if relu else torch.ops.quantized.linear
    y = op(x, packed, scales[2], zero_points[1])
    return {
        "op": "linear",
        "shape": [m, k, n],
        "inputs": [flat(x)],
        "params": [params(scales[0], zero_points[0]), params(scales[2], zero_points[1])],
        "weights": w.flatten().tolist(),
        "weight_scales": [float(s) for s in w_scales.to(torch.float32)],
        "bias": bias.tolist(),
        "relu": relu,
        "y": flat(y),
        "exact": exact,
    }


def main():
    cases = [
        add_case([0.5, 0.25, 1.0], [10, 200, 60], False, True),
        add_case([0.5, 0.25, 1.0], [10, 200, 60], True, True),
        add_case([2.0, 0.125, 4.0], [128, 0, 100], False, True),
        add_case([0.013, 0.047, 0.06], [3, 131, 90], False, False),
        add_case([0.031, 0.029, 0.021], [128, 120, 127], True, False),
        pool_case("average_pool", [1, 5, 6, 3], [2, 2], [2, 2], [0, 0]),
        pool_case("average_pool", [2, 5, 5, 3], [3, 3], [2, 2], [1, 1]),
        pool_case("average_pool", [1, 5, 5, 17], [3, 3], [2, 1], [1, 1], include=False),
        pool_case("average_pool", [1, 4, 7, 2], [3, 2], [1, 3], [1, 0], include=False),
        pool_case("max_pool", [2, 5, 6, 3], [2, 2], [2, 2], [0, 0]),
        pool_case("max_pool", [1, 6, 6, 4], [3, 3], [2, 2], [1, 1]),
        pool_case("max_pool", [1, 7, 7, 17], [3, 2], [1, 2], [1, 1], dilation=2),
        global_case([2, 4, 3, 5], 0.1, 31),
        global_case([1, 7, 7, 16], 0.02, 128),
        linear_case(3, 16, 5, [0.0625, 0.0078125, 0.5], [128, 64], False, True),
        linear_case(2, 33, 8, [0.0625, 0.0078125, 0.5], [7, 64], True, True),
        linear_case(3, 20, 7, [0.037, 0.0061, 0.41], [90, 110], False, False),
    ]
    about = f"PyTorch {torch.__version__}, engine {torch.backends.quantized.engine}; made by layers_torch.py"
    print(json.dumps({"about": about, "cases": cases}, separators=(",", ":")))


main()

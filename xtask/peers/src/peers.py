"""Peers that are reached from Python: a command on each line of the input, an answer on each line of the output, in JSON."""

import json
import sys
import time

import numpy as np


def values(rows, cols):
    """The same bytes as on the other side."""
    i = np.arange(rows * cols, dtype=np.uint64)
    return ((i * 2654435761) >> 7).astype(np.uint8).view(np.int8).reshape(rows, cols)


def checksum(sums):
    flat = sums.reshape(-1).astype(np.int64)
    return int((flat * (np.arange(flat.size) % 251 + 1)).sum())


ZERO = 3


def onednn(m, k, n, threads):
    import torch

    torch.set_num_threads(threads)
    a, b = torch.from_numpy(values(m, k)), torch.from_numpy(values(k, n))
    out = torch.empty((m, n), dtype=torch.int32)
    int_mm = torch.ops.aten._int_mm.out
    return lambda: int_mm(a, b, out=out), lambda: (0, checksum(out.numpy()))


def fbgemm(m, k, n, threads):
    import torch

    torch.set_num_threads(threads)
    torch.backends.quantized.engine = "fbgemm"
    a = torch.from_numpy(values(m, k).astype(np.float32) / 128)
    w = torch.from_numpy(values(k, n).T.astype(np.float32).copy())
    scales, zeros = torch.full((n,), 1.0), torch.zeros(n, dtype=torch.int64)
    w = torch.quantize_per_channel(w, scales, zeros, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(w, None)
    linear = torch.ops.quantized.linear_dynamic
    return lambda: linear(a, packed, True), None


def onnx_session(node, initializers, a, out, threads):
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32}
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", kinds[a.dtype.name], a.shape)],
        [helper.make_tensor_value_info("y", kinds[out.dtype.name], out.shape)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("a", ort.OrtValue.ortvalue_from_numpy(a))
    result = ort.OrtValue.ortvalue_from_numpy(out)
    binding.bind_ortvalue_output("y", result)
    return lambda: session.run_with_iobinding(binding), result


def matmul_integer(lhs):
    def make(m, k, n, threads):
        from onnx import helper

        a = values(m, k).view(lhs)
        node = helper.make_node("MatMulInteger", ["a", "b", "za"], ["y"])
        initializers = {"b": values(k, n), "za": np.array(ZERO, dtype=lhs)}
        call, y = onnx_session(node, initializers, a, np.zeros((m, n), np.int32), threads)
        return call, lambda: (ZERO, checksum(y.numpy()))

    return make


def qlinear_matmul(m, k, n, threads):
    from onnx import helper

    a = values(m, k).view(np.uint8)
    node = helper.make_node("QLinearMatMul", ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"], ["y"])
    initializers = {
        "b": values(k, n),
        "sa": np.array(0.01, np.float32),
        "za": np.array(ZERO, np.uint8),
        "sb": (1e-2 * (1 + np.arange(n) % 7)).astype(np.float32),
        "zb": np.zeros(n, np.int8),
        "sy": np.array(1.0, np.float32),
        "zy": np.array(5, np.uint8),
    }
    call, _ = onnx_session(node, initializers, a, np.zeros((m, n), np.uint8), threads)
    return call, None


LAYERS, HIDDEN = 5, 256


def language_model(bits):
    """Embedding, LSTM layers and a decoder; a call goes on from the state of the one before."""

    def make(m, k, n, threads):
        import torch
        from torch import nn

        torch.set_num_threads(threads)
        torch.backends.quantized.engine = "fbgemm"

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = nn.Embedding(n, k)
                self.lstm = nn.LSTM(k, HIDDEN, LAYERS)
                self.decoder = nn.Linear(HIDDEN, n)

            def forward(self, ids, state):
                y, state = self.lstm(self.encoder(ids), state)
                return self.decoder(y), state

        model = Model().eval()
        if bits == 8:
            model = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM, nn.Linear}, dtype=torch.qint8)
        ids = (torch.arange(m) * 1327 % n).reshape(m, 1)
        state = (torch.zeros(LAYERS, 1, HIDDEN), torch.zeros(LAYERS, 1, HIDDEN))

        def call():
            nonlocal state
            with torch.inference_mode():
                _, state = model(ids, state)

        return call, None

    return make


PEERS = {
    "oneDNN (torch._int_mm)": onednn,
    "FBGEMM (linear_dynamic, 7 bits)": fbgemm,
    "ONNX Runtime MatMulInteger u8": matmul_integer(np.uint8),
    "ONNX Runtime MatMulInteger i8": matmul_integer(np.int8),
    "ONNX Runtime QLinearMatMul": qlinear_matmul,
    "PyTorch LSTM, f32": language_model(32),
    "PyTorch LSTM, int8": language_model(8),
}


def ready():
    """The interpreter has come this far."""


def prepare(peer, m, k, n, threads):
    global call, sums
    call, sums = PEERS[peer](m, k, n, threads)
    call()


def seconds(calls, clock):
    now = time.thread_time if clock == "thread" else time.perf_counter
    start = now()
    for _ in range(calls):
        call()
    return now() - start


def check():
    return sums and sums()


COMMANDS = {"ready": ready, "prepare": prepare, "seconds": seconds, "check": check}

for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        answer = {"ok": COMMANDS[name](*arguments)}
    except Exception as error:  # whatever a library throws is told, and the next peer gets its turn
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(answer), flush=True)

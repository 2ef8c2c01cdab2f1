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


def session_of(model, threads):
    """A session of a model: a file's name, or its bytes."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_session(node, initializers, inputs, out, threads):
    """A call of one node, whose inputs and output stay where they are, and its output."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32}
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info(name, kinds[x.dtype.name], x.shape) for name, x in inputs.items()],
        [helper.make_tensor_value_info("y", kinds[out.dtype.name], out.shape)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    session = session_of(model.SerializeToString(), threads)
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
    result = ort.OrtValue.ortvalue_from_numpy(out)
    binding.bind_ortvalue_output("y", result)
    return lambda: session.run_with_iobinding(binding), result


def matmul_integer(lhs, packing=False):
    """With weights that are packed when the model is loaded, or that come with the call."""

    def make(m, k, n, threads):
        from onnx import helper

        node = helper.make_node("MatMulInteger", ["a", "b", "za"], ["y"])
        initializers, inputs = {"za": np.array(ZERO, dtype=lhs)}, {"a": values(m, k).view(lhs)}
        (inputs if packing else initializers)["b"] = values(k, n)
        call, y = onnx_session(node, initializers, inputs, np.zeros((m, n), np.int32), threads)
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
    call, _ = onnx_session(node, initializers, {"a": a}, np.zeros((m, n), np.uint8), threads)
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


def onnx_language_model(words, features, path):
    """The same model in f32, its state an input and an output, as a file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random, weights, nodes = np.random.default_rng(0), [], []

    def weight(name, bound, *shape):
        values = random.uniform(-bound, bound, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(values, name))
        return name

    weights.append(numpy_helper.from_array(np.array([1], np.int64), "directions"))
    nodes.append(helper.make_node("Gather", [weight("encoder", 0.1, words, features), "ids"], ["x0"]))
    bound = HIDDEN**-0.5
    for i in range(LAYERS):
        inputs = HIDDEN if i else features
        parts = [weight(f"W{i}", bound, 1, 4 * HIDDEN, inputs), weight(f"R{i}", bound, 1, 4 * HIDDEN, HIDDEN)]
        parts.append(weight(f"B{i}", bound, 1, 8 * HIDDEN))
        names, outputs = [f"x{i}", *parts, "", f"h{i}", f"c{i}"], [f"y{i}", f"new_h{i}", f"new_c{i}"]
        nodes.append(helper.make_node("LSTM", names, outputs, hidden_size=HIDDEN))
        nodes.append(helper.make_node("Squeeze", [f"y{i}", "directions"], [f"x{i + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"x{LAYERS}", weight("decoder", 0.1, HIDDEN, words)], ["product"]))
    nodes.append(helper.make_node("Add", ["product", weight("bias", 0.1, words)], ["scores"]))

    def state(prefix):
        names = [f"{prefix}{kind}{i}" for i in range(LAYERS) for kind in "hc"]
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, HIDDEN]) for name in names]

    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["length", 1])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["length", 1, words])
    graph = helper.make_graph(nodes, "language model", [ids, *state("")], [scores, *state("new_")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    model.ir_version = 8
    onnx.save(model, path)


def onnx_language_model_int8(m, k, n, threads):
    from tempfile import TemporaryDirectory

    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Made once for texts of all lengths.
    if "model" not in language_models:
        with TemporaryDirectory() as folder:
            onnx_language_model(n, k, f"{folder}/f32.onnx")
            quantize_dynamic(f"{folder}/f32.onnx", f"{folder}/int8.onnx", weight_type=QuantType.QInt8)
            language_models["model"] = session_of(f"{folder}/int8.onnx", threads)
    session = language_models["model"]
    names = [f"{kind}{i}" for i in range(LAYERS) for kind in "hc"]
    state = [np.zeros((1, 1, HIDDEN), np.float32) for _ in names]
    ids = (np.arange(m, dtype=np.int64) * 1327 % n).reshape(m, 1)

    def call():
        nonlocal state
        _, *state = session.run(None, {"ids": ids, **dict(zip(names, state))})

    return call, None


language_models = {}

PEERS = {
    "FBGEMM (linear_dynamic, 7 bits)": fbgemm,
    "ONNX Runtime MatMulInteger u8": matmul_integer(np.uint8),
    "ONNX Runtime MatMulInteger u8, packing": matmul_integer(np.uint8, packing=True),
    "ONNX Runtime MatMulInteger i8": matmul_integer(np.int8),
    "ONNX Runtime QLinearMatMul": qlinear_matmul,
    "ONNX Runtime LSTM, int8": onnx_language_model_int8,
    "PyTorch LSTM, f32": language_model(32),
    "PyTorch LSTM, int8": language_model(8),
}


def onednn():
    """The library of the package `onednn-cpu-gomp`, which is called without Python."""
    from importlib.metadata import files

    for file in files("onednn-cpu-gomp"):
        if "libdnnl.so" in file.name or file.name in ("dnnl.dll", "libdnnl.dylib"):
            return str(file.locate().resolve())
    raise FileNotFoundError("the package onednn-cpu-gomp has no library of oneDNN")


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


COMMANDS = {"onednn": onednn, "ready": ready, "prepare": prepare, "seconds": seconds, "check": check}

for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        answer = {"ok": COMMANDS[name](*arguments)}
    except Exception as error:  # whatever a library throws is told, and the next peer gets its turn
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(answer), flush=True)

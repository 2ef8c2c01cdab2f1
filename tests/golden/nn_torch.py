"""Makes nn_torch.json: what torch.nn.LSTM and GRU answer in f32, with their weights. `pip install torch`, then run this."""

import json
from pathlib import Path

import torch
from torch import nn

torch.manual_seed(7)
cases = []
for kind, inputs, hidden, layers, bidirectional, bias, steps, batch in [
    ("lstm", 3, 4, 1, False, True, 4, 1),
    ("lstm", 5, 4, 2, False, True, 4, 2),
    ("lstm", 3, 3, 2, True, True, 3, 2),
    ("lstm", 4, 3, 1, True, False, 3, 1),
    ("gru", 3, 4, 1, False, True, 4, 1),
    ("gru", 5, 4, 2, False, True, 4, 2),
    ("gru", 3, 3, 2, True, True, 3, 2),
    ("gru", 4, 3, 1, True, False, 3, 1),
]:
    make = nn.LSTM if kind == "lstm" else nn.GRU
    module = make(inputs, hidden, layers, bias=bias, bidirectional=bidirectional)
    state = (layers * (2 if bidirectional else 1), batch, hidden)
    x, h0, c0 = torch.randn(steps, batch, inputs), 0.5 * torch.randn(state), 0.5 * torch.randn(state)
    with torch.no_grad():
        y, last = module(x, (h0, c0) if kind == "lstm" else h0)
    h, c = last if kind == "lstm" else (last, None)
    # Nine digits bring an f32 back to the bit.
    flat = lambda t: None if t is None else [float(f"{v:.9g}") for v in t.flatten().tolist()]
    cases.append({
        "kind": kind, "inputs": inputs, "hidden": hidden, "layers": layers, "bidirectional": bidirectional,
        "steps": steps, "batch": batch,
        "weights": {name: flat(value) for name, value in module.state_dict().items()},
        "x": flat(x), "h0": flat(h0), "c0": flat(c0) if kind == "lstm" else None,
        "y": flat(y), "h": flat(h), "c": flat(c),
    })
about = "torch.nn.LSTM and GRU in f32: x is steps x batch x inputs, states are layers * directions x batch x hidden, weights by PyTorch's names"
text = json.dumps({"about": about, "torch": torch.__version__, "cases": cases})
Path(__file__).with_suffix(".json").write_text(text.replace('{"kind"', '\n{"kind"') + "\n")

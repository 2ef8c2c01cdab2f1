"""Trains the language model of this example and writes the files beside it: model.safetensors (f16), vocabulary.txt, test.txt.

    apt-get install bible-kjv-text          # the King James Bible, its copyright long expired
    pip install torch numpy safetensors
    python train.py [--minutes 19] [--threads 1]

Embedding -> LSTM of two layers -> Linear, all names as PyTorch's modules give them.
"""

import argparse
import math
import re
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
WORDS, FEATURES, HIDDEN, LAYERS, DROPOUT = 4096, 128, 128, 2, 0.15
BATCH, STEPS = 32, 35
UNKNOWN, END = "<unk>", "<eos>"


def verses(path):
    """(chapter, text) of every verse, from the package's archive: after a directory, windows of 64 KiB of text, each packed by
    compress(1) and stored without the three bytes of its header."""
    data = Path(path).read_bytes()
    (count,) = struct.unpack_from(">I", data, 0x58)
    starts = [*struct.unpack_from(f">{count}I", data, 0x5C), len(data)]
    text = b"".join(
        subprocess.run(["gzip", "-dc"], input=b"\x1f\x9d\x90" + data[start:end], stdout=subprocess.PIPE, check=True).stdout
        for start, end in zip(starts, starts[1:])
    )
    for line in text.decode("ascii").splitlines()[1:]:
        place, verse = line.split(" ", 1)
        yield place.split(":")[0], verse.strip()


def tokens(verse):
    """Words, with apostrophes and hyphens inside, and single signs; then the end of the line."""
    return [*re.findall(r"[\w'-]+|[^\w\s]", verse), END]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(WORDS, FEATURES)
        self.lstm = nn.LSTM(FEATURES, HIDDEN, LAYERS, dropout=DROPOUT)
        self.decoder = nn.Linear(HIDDEN, WORDS)
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, ids, state=None):
        out, state = self.lstm(self.dropout(self.encoder(ids)), state)
        return self.decoder(self.dropout(out)), state


def loss_of(model, ids):
    """Nats per word of a text as one sequence that carries its state."""
    model.eval()
    state, total = None, 0.0
    with torch.no_grad():
        for at in range(0, len(ids) - 1, STEPS):
            part = ids[at : at + STEPS + 1]
            logits, state = model(part[:-1, None], state)
            total += nn.functional.cross_entropy(logits[:, 0], part[1:], reduction="sum").item()
    model.train()
    return total / (len(ids) - 1)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--text", default="/usr/lib/bible.data", help="the archive of Debian's bible-kjv-text")
    args.add_argument("--minutes", type=float, default=19)
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)

    # Of every 80 chapters one is for the test, and one to watch the training by.
    texts = {"train": [], "watch": [], "test": []}
    chapters = {}
    for chapter, verse in verses(args.text):
        number = chapters.setdefault(chapter, len(chapters))
        texts[{0: "watch", 40: "test"}.get(number % 80, "train")].append(verse)
    counts = Counter(token for verse in texts["train"] for token in tokens(verse))
    del counts[END]
    words = [UNKNOWN, END] + [word for word, _ in counts.most_common(WORDS - 2)]
    index = {word: i for i, word in enumerate(words)}
    ids = {
        name: torch.tensor([index.get(token, 0) for verse in text for token in tokens(verse)])
        for name, text in texts.items()
    }
    for name, part in ids.items():
        print(f"{name}: {len(part)} words, {100 * (part == 0).float().mean():.2f} % of them unknown")
    (HERE / "vocabulary.txt").write_text("\n".join(words) + "\n")
    (HERE / "test.txt").write_text("\n".join(texts["test"]) + "\n")

    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    columns = ids["train"][: len(ids["train"]) // BATCH * BATCH].view(BATCH, -1).t().contiguous()
    begun, epoch, done = time.monotonic(), 0, 0.0
    while done < 1.0:
        # Another offset in each epoch, so that sequences are cut elsewhere.
        state, total, count = None, 0.0, 0
        for at in range(epoch * 11 % STEPS, len(columns) - STEPS - 1, STEPS):
            done = (time.monotonic() - begun) / (60 * args.minutes)
            if done >= 1.0:
                break
            # Up in the first twentieth of the time, then down along a cosine.
            rate = 4e-3 * min(20 * done, 0.5 + 0.5 * math.cos(math.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = rate
            logits, state = model(columns[at : at + STEPS], state)
            state = tuple(part.detach() for part in state)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), columns[at + 1 : at + STEPS + 1].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            total, count = total + loss.item(), count + 1
        epoch += 1
        print(f"epoch {epoch}: train {total / max(count, 1):.4f}, watch {loss_of(model, ids['watch']):.4f}", flush=True)

    weights = {name: value.half() for name, value in model.state_dict().items()}
    save_file(weights, HERE / "model.safetensors")
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    print(f"test, from the f16 weights: {loss_of(model, ids['test']):.4f} nats per word")


if __name__ == "__main__":
    main()

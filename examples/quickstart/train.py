"""Makes digits.bin and mlp.bin, the two files that the quickstart example carries.

    pip install numpy scipy scikit-learn
    python train.py

digits.bin: the 1,797 handwritten digits that scikit-learn ships. mlp.bin: a 64-128-64-10 network in f32, trained on the
first 1,297 of them with plain numpy, seeded: the same files every time on the same numpy. README.md describes both formats.
"""

import struct
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
TRAIN = 1297  # the rest is held out
SIZES = [64, 128, 64, 10]
EPOCHS, BATCH, RATE, DECAY = 200, 64, 2e-3, 1e-2


def write_digits(pixels, labels):
    with open(HERE / "digits.bin", "wb") as file:
        file.write(b"DIG1" + struct.pack("<I", len(labels)))
        for image, label in zip(pixels, labels):
            file.write(bytes(image.astype(np.uint8)) + bytes([label]))


def write_network(layers):
    with open(HERE / "mlp.bin", "wb") as file:
        file.write(b"MLP1" + struct.pack("<I", len(layers)))
        for weights, bias in layers:
            outputs, inputs = weights.shape
            file.write(struct.pack("<II", inputs, outputs))
            file.write(weights.astype("<f4").tobytes() + bias.astype("<f4").tobytes())


def forward(layers, x):
    """Activations of every layer, the input first; ReLU between layers."""
    activations = [x]
    for i, (weights, bias) in enumerate(layers):
        y = activations[-1] @ weights.T + bias
        activations.append(np.maximum(y, 0) if i + 1 < len(layers) else y)
    return activations


def gradients(layers, x, labels):
    """Of the mean cross-entropy."""
    activations = forward(layers, x)
    scores = activations[-1] - activations[-1].max(axis=1, keepdims=True)
    delta = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    delta[np.arange(len(labels)), labels] -= 1
    delta /= len(labels)
    result = []
    for (weights, _), x in zip(reversed(layers), reversed(activations[:-1])):
        result += [delta.sum(axis=0), delta.T @ x]
        delta = (delta @ weights) * (x > 0)
    return result[::-1]


def distorted(images, random):
    """Each image turned, sheared, scaled, moved and made noisy, a little: 1,297 digits are few."""
    result = np.empty_like(images)
    centre = np.array([3.5, 3.5])
    for i, image in enumerate(images.reshape(-1, 8, 8)):
        angle, shear = random.normal(0, 0.15, 2)
        high, wide = np.exp(random.normal(0, 0.1, 2))
        matrix = np.array(
            [[np.cos(angle) * high, shear - np.sin(angle)], [np.sin(angle), np.cos(angle) * wide]]
        )
        offset = centre - matrix @ centre + random.uniform(-0.8, 0.8, 2)
        result[i] = affine_transform(image, matrix, offset, order=1).ravel()
    return np.clip(result + random.normal(0, 0.15, result.shape), 0, 1)


def train(x, labels, random):
    layers = [
        (random.normal(0, (2 / inputs) ** 0.5, (outputs, inputs)), np.zeros(outputs))
        for inputs, outputs in zip(SIZES, SIZES[1:])
    ]
    parameters = [p for layer in layers for p in layer]
    first, second = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]
    step = 0
    for epoch in range(EPOCHS):
        rate = RATE * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        order = random.permutation(len(x))
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            step += 1
            # Adam with decoupled weight decay.
            for p, g, m, v in zip(parameters, gradients(layers, distorted(x[batch], random), labels[batch]), first, second):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p -= rate * (m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8) + DECAY * p)
    return layers


def accuracy(layers, x, labels):
    return 100 * np.mean(forward(layers, x)[-1].argmax(axis=1) == labels)


def main():
    digits = load_digits()
    write_digits(digits.data, digits.target)
    x, labels = digits.data / 16, digits.target
    layers = train(x[:TRAIN], labels[:TRAIN], np.random.default_rng(1))
    layers = [(w.astype(np.float32), b.astype(np.float32)) for w, b in layers]
    write_network(layers)
    print(f"accuracy: train {accuracy(layers, x[:TRAIN], labels[:TRAIN]):.1f} %, ", end="")
    print(f"held out {accuracy(layers, x[TRAIN:], labels[TRAIN:]):.1f} %")


if __name__ == "__main__":
    main()

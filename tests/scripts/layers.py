"""What train.py imports: two layers with momentum."""

import numpy as np


class Network:
    def __init__(self, inputs: int, width: int, outputs: int, rng: np.random.Generator) -> None:
        self.weights = {
            "first": rng.normal(0, (2 / inputs) ** 0.5, (inputs, width)).astype(np.float32),
            "second": rng.normal(0, (2 / width) ** 0.5, (width, outputs)).astype(np.float32),
        }
        self.speed = {name: np.zeros_like(value) for name, value in self.weights.items()}

    def logits(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ self.weights["first"], 0) @ self.weights["second"]

    def step(self, x: np.ndarray, y: np.ndarray, lr: float) -> float:
        hidden = np.maximum(x @ self.weights["first"], 0)
        logits = hidden @ self.weights["second"]
        shifted = logits - logits.max(1, keepdims=True)
        logp = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        error = (np.exp(logp) - np.eye(10, dtype=np.float32)[y]) / len(x)
        gradients = {"second": hidden.T @ error, "first": x.T @ ((error @ self.weights["second"].T) * (hidden > 0))}
        for name, gradient in gradients.items():
            self.speed[name] = 0.9 * self.speed[name] - lr * gradient
            self.weights[name] += self.speed[name]
        return float(-logp[np.arange(len(y)), y].mean())

    def save(self, path, epoch: int) -> None:
        speed = {f"speed_{name}": value for name, value in self.speed.items()}
        np.savez(path, epoch=epoch, **self.weights, **speed)

    def load(self, path) -> int:
        with np.load(path) as state:
            for name in self.weights:
                self.weights[name], self.speed[name] = state[name], state[f"speed_{name}"]
            return int(state["epoch"])

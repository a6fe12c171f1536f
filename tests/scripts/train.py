"""A classifier as somebody writes it who knows nothing of this platform: argparse, numpy, one hidden layer, SGD with momentum."""

import argparse
import gzip
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from layers import Network


def images(folder: Path, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    def read(name: str, skip: int) -> np.ndarray:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                data = path.read_bytes() if path.suffix != ".gz" else gzip.decompress(path.read_bytes())
                return np.frombuffer(data, np.uint8, offset=skip)
        raise SystemExit(f"{folder / name} is not there")

    x = read(f"{split}-images-idx3-ubyte", 16).reshape(-1, 784)[:count]
    return x.astype(np.float32) / 255, read(f"{split}-labels-idx1-ubyte", 8)[:count]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--resume", default="", help="folder of a shorter run")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    x, y = images(args.data, "train", args.images)
    rng = np.random.default_rng(args.seed)
    network = Network(784, args.width, 10, rng)
    begin = 0
    saved = args.checkpoints / "state.npz" if args.checkpoints else None
    if saved and saved.exists():
        begin = network.load(saved)
    elif args.resume:
        begin = network.load(Path(args.resume) / "state.npz")
    if begin:
        print(f"going on after epoch {begin}")
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    for epoch in range(begin, args.epochs):
        order = np.random.default_rng((args.seed, epoch)).permutation(len(x))
        losses = [network.step(x[rows], y[rows], args.lr) for rows in np.array_split(order, len(x) // 50)]
        with open(args.out / "curves.jsonl", "a") as file:
            file.write(json.dumps({"step": epoch + 1, "of": args.epochs, "loss": float(np.mean(losses))}) + "\n")
        if saved:
            network.save(saved.with_suffix(".new.npz"), epoch + 1)
            os.replace(saved.with_suffix(".new.npz"), saved)
        if stop:
            return 75
        time.sleep(float(os.environ.get("SLOW", "0")))
    x, y = images(args.data, "t10k", 2000)
    accuracy = float((network.logits(x).argmax(1) == y).mean())
    print(f"accuracy {accuracy}")
    (args.out / "results.json").write_text(json.dumps({"accuracy": accuracy}))
    network.save(args.out / "state.npz", args.epochs)
    np.savez(args.out / "weights.npz", **network.weights)
    return 0


if __name__ == "__main__":
    sys.exit(main())

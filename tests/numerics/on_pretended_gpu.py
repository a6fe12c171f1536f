"""What each stage computes, on tensors without contents that say that they lie on a GPU: a tensor left on the CPU is an error.

PyTorch for CPUs has no GPU that tensors could pretend to lie on, so this process has a device of its own, called `gpu`, and takes
it for one of CUDA. Names what went wrong, one line for each case; `--broken` leaves a tensor behind, to see that it is noticed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Self

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from star.evaluate.features import load_extractor
from star.evaluate.inception import InceptionV3
from star.evaluate.linear_probe import _head_losses, _lars, _schedule
from star.model.gpt import GPT
from star.model.sample import sample
from star.objectives.batch import ClassDropout, draw_batch
from star.objectives.objective import Objective
from star.objectives.st_ar import st_ar
from star.tokenizer.train import vq_losses
from star.tokenizer.vq import VQModel
from star.train.optim import build_adamw
from tests.benchmarks.growth import fashion
from tests.helpers import ROOT

NAME, IMAGES = "gpu", 8


class Backend(_DummyBackendModule):
    """What PyTorch asks a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class OneMode(FakeTensorMode):
    """Copies of a model, such as the teacher, are of the same mode."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def move(network: torch.nn.Module) -> None:
    """What `network.to` would do, of which PyTorch makes no tensors without contents."""
    for part in network.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(torch.empty_like(parameter, device=NAME))
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else torch.empty_like(buffer, device=NAME)


def cases(broken: bool) -> dict[str, Callable[[], object]]:
    """Name -> what a stage computes."""
    spec, gpu = fashion(), torch.device(NAME)
    classes, vocabulary = spec.data.num_classes, spec.tokenizer.codebook_size
    with gpu:
        model = GPT(spec.model, vocabulary, classes, spec.grid)
        tokenizer = VQModel(spec.tokenizer, 1)
        terms = st_ar(spec.selfguided, spec.contrastive_layer)
        objective = Objective(GPT(spec.model, vocabulary, classes, spec.grid), terms)
        codes = torch.zeros(IMAGES, spec.sequence_length, dtype=torch.long)
        labels = torch.zeros(IMAGES, dtype=torch.long)
        images = torch.zeros(IMAGES, 1, spec.data.image_size, spec.data.image_size)

    def train() -> None:
        stored = torch.zeros(IMAGES, spec.selfguided.num_views, spec.sequence_length, dtype=torch.long)
        told, views = torch.zeros(IMAGES, dtype=torch.long), spec.selfguided.student_views
        batch = draw_batch(terms, stored, told, views, ClassDropout(classes), torch.Generator(), True)
        batch = batch if broken else batch.to(gpu)
        optimizer = build_adamw(objective.trained_parameters(), spec.optim)
        objective.losses(batch, objective.targets(batch))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(objective.trained_parameters(), 1.0)
        optimizer.step()
        objective.update_teacher(1)

    def train_tokenizer() -> None:
        quantized = tokenizer.quantized(images)
        vq_losses(spec.tokenizer, tokenizer, images, quantized)[0]["loss"].backward()

    def generate() -> None:
        generate = spec.generate.model_copy(update={"cfg_scale": 2.0, "top_k": 20, "top_p": 0.9})
        noise = torch.zeros(IMAGES, spec.sequence_length, dtype=torch.float64, device=gpu)
        tokenizer.decode(sample(model.eval(), labels, noise, generate))

    def score() -> None:
        for name in ("efficientnet-lite0", "inception"):
            with unset_fake_temporarily():
                known = load_extractor(name, 64, ROOT, torch.device("cpu")) if name != "inception" else InceptionV3()
            network: Any = known.eval()
            move(network)
            with torch.no_grad():
                network.layers(network.resized(images))

    def probe() -> None:
        features = model.hidden_at(codes, labels, 2)[:, :3]
        heads = (torch.zeros(4, 3, spec.model.dim, classes, device=gpu), torch.zeros(4, 3, classes, device=gpu))
        wanted = tuple(head.requires_grad_() for head in heads)
        _head_losses((wanted[0], wanted[1]), features.detach(), labels).sum().backward()
        rates = torch.arange(1.0, 5.0, device=gpu) * _schedule(1, spec.probe)
        gradients = [head.grad for head in heads if head.grad is not None]
        _lars(heads, gradients, [torch.zeros_like(head) for head in heads], rates)

    def encode() -> None:
        with torch.no_grad():
            tokenizer.encode(images)

    return {
        "train": train,
        "tokenizer": train_tokenizer,
        "encode": encode,
        "generate": generate,
        "score": score,
        "probe": probe,
    }


def main() -> None:
    """Run all cases."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    torch.Tensor.is_cuda = property(lambda tensor: tensor.device.type == NAME)  # type: ignore[assignment,misc]
    # one thread: the mode is that of the thread
    with OneMode(allow_non_fake_inputs=True), torch.autograd.set_multithreading_enabled(False):
        for name, work in cases("--broken" in sys.argv).items():
            try:
                work()
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}")
            else:
                print(f"{name}: done")


if __name__ == "__main__":
    main()

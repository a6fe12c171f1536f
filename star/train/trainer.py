"""The training loop. Every random choice of a step is a function of (seed, step), so a resumed run repeats nothing
and loses nothing: its losses are bit-identical to those of a run that was never stopped (CPU)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from star.data.codes import CodeStore, distinct_views, order_of_epoch
from star.errors import StarError, Stopped
from star.model.gpt import GPT
from star.selfguided.objective import Batch, Objective, draw_batch
from star.spec.run import RunSpec
from star.train import checkpoint
from star.train.optim import build_adamw, lr_at

Record = Callable[[int, Mapping[str, float]], None]
RECORD_EVERY = 10
"""Optimizer steps between recorded losses."""


class DivergedError(StarError):
    """The loss is not a number any more."""


def build_model(spec: RunSpec) -> GPT:
    """The transformer of a run, with fresh weights from the global generator."""
    return GPT(spec.model, spec.tokenizer.codebook_size, spec.data.num_classes, spec.grid)


class Trainer:
    """Trains the model of a run on a code store.

    Args:
        folder: where checkpoints go, and where the newest is looked for.
        record: receives (step, metrics); who listens is not the trainer's business.
        progress: receives (done, total) steps.
        stop: asked after each step; when true, the state is saved and `Stopped` raised.
    """

    def __init__(
        self,
        spec: RunSpec,
        train: CodeStore,
        test: CodeStore,
        folder: Path,
        device: torch.device,
        record: Record,
        progress: Callable[[int, int], None],
        stop: Callable[[], bool],
    ) -> None:
        # parts
        self.spec = spec
        self.data, self.test = train, test
        self.folder = folder
        self.device = device
        self.record, self.progress, self.stop = record, progress, stop
        # state
        torch.manual_seed(spec.seed)
        self.objective = Objective(spec.selfguided, build_model(spec), spec.contrastive_layer).to(device)
        self.optimizer = build_adamw(self.objective.trained_parameters(), spec.optim)
        self.step = 0
        self._resume()

    def train(self) -> dict[str, float]:
        """All steps that are left; returns the final numbers."""
        total = self.spec.total_steps
        while self.step < total:
            metrics = self.train_step()
            self.step += 1
            if self.step % RECORD_EVERY == 0 or self.step in (1, total):
                self._record(metrics)
            self.progress(self.step, total)
            if self.step % self.spec.resources.checkpoint_every == 0 and self.step < total:
                self.save()
            if self.stop():
                self.save()
                raise Stopped
        return {"val_nll": self.validation_nll()}

    def train_step(self) -> dict[str, Tensor]:
        """One optimizer step; returns the losses and the gradient's norm."""
        rate = lr_at(self.step, self.spec.total_steps, self.spec.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.batch_at(self.step)
        torch.manual_seed(_mix(self.spec.seed, 4, self.step))  # dropout
        self.objective.train()
        with self._autocast():
            targets = self.objective.targets(batch)
        micro = self.spec.resources.micro_batch_size or len(batch.codes)
        metrics: dict[str, Tensor] = {}
        for first in range(0, len(batch.codes), micro):
            with self._autocast():
                losses = self.objective.losses(batch, targets, slice(first, min(first + micro, len(batch.codes))))
            losses["loss"].backward()
            for name, value in losses.items():
                metrics[name] = metrics.get(name, torch.zeros((), device=self.device)) + value.detach()
        limit = self.spec.optim.grad_clip or float("inf")
        metrics["grad_norm"] = nn.utils.clip_grad_norm_(self.objective.trained_parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.update_teacher(self.step)
        return metrics

    def batch_at(self, step: int) -> Batch:
        """The batch of optimizer step `step` (from 0), the same whenever it is asked for."""
        spec, size = self.spec, self.spec.optim.batch_size
        per_epoch = len(self.data) // size
        epoch, place = divmod(step, per_epoch)
        images = np.sort(order_of_epoch(spec.seed, epoch, len(self.data))[place * size : (place + 1) * size])
        views = distinct_views(spec.seed, step, size, spec.selfguided.num_views, self.data.codes.shape[1])
        codes = torch.from_numpy(self.data.gather(images, views))
        labels = torch.from_numpy(self.data.labels[images])
        generator = torch.Generator().manual_seed(_mix(spec.seed, 3, step))
        model = spec.model
        drop_prob, drop_per = model.class_dropout_prob, model.class_dropout_per
        batch = draw_batch(codes, labels, spec.selfguided, spec.data.num_classes, drop_prob, drop_per, generator)
        return batch.to(self.device)

    @torch.no_grad()
    def validation_nll(self) -> float:
        """Nats per code on the test images' centre crops, with their labels, unmasked."""
        self.objective.eval()
        size, total = self.spec.resources.sample_batch_size, 0.0
        for first in range(0, len(self.test), size):
            codes = torch.from_numpy(self.test.center(first, first + size)).to(self.device)
            labels = torch.from_numpy(self.test.labels[first : first + size]).to(self.device)
            logits = self.objective.student(codes, labels)
            total += nn.functional.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="sum").item()
        return total / (len(self.test) * self.test.codes.shape[2])

    def save(self) -> None:
        """Everything the next step depends on; the random state is the step's number."""
        state = {"objective": self.objective.state_dict(), "optimizer": self.optimizer.state_dict()}
        checkpoint.save(self.folder, self.step, state, self.spec.resources.keep_checkpoints)

    def _resume(self) -> None:
        newest = checkpoint.load_newest(self.folder)
        if newest is None:
            return
        self.step, state = newest
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _record(self, metrics: Mapping[str, Tensor]) -> None:
        values = {name: value.item() for name, value in metrics.items()}
        if not np.isfinite(values["loss"]):
            raise DivergedError(
                f"the loss is {values['loss']} after step {self.step} (gradient norm {values['grad_norm']:.3g}); "
                "lower optim.lr, or raise optim.warmup_steps."
            )
        self.record(self.step, {**values, "lr": lr_at(self.step - 1, self.spec.total_steps, self.spec.optim)})

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.spec.optim.precision == "bf16")


def _mix(*parts: int) -> int:
    """One seed of several numbers, for torch, whose CPU generator counts the lowest 32 bits only."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])

"""The training loop.

Every random choice of a step is a function of (seed, step), so a resumed run repeats nothing and loses nothing: its
losses are bit-identical to those of a run that was never stopped (CPU).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from star.checkpoint import Checkpoints
from star.data.codes import CodeStore
from star.errors import Stopped
from star.model.gpt import GPT
from star.objectives.backbone import Pass
from star.objectives.batch import Batch
from star.objectives.objective import Objective
from star.objectives.term import Term
from star.pipeline.config.run import StarRun
from star.ranks import ALONE, Ranks
from star.train.batches import batch_at
from star.train.distributed import (
    accumulating,
    full_state_dict,
    full_tensor,
    load_full_state_dict,
    parallelize,
    renamed,
)
from star.train.guard import MicroBatch, check, finite_nll, is_out_of_memory
from star.train.optim import build_adamw, lr_at
from star.train.terms import terms_of
from star.weights import fit, load_state

Record = Callable[[int, Mapping[str, float]], None]
RECORD_EVERY = 10
"""Optimizer steps between recorded losses."""
log = logging.getLogger(__name__)


def build_model(spec: StarRun) -> GPT:
    """The transformer of a run, with fresh weights from the global generator."""
    return GPT(spec.model, spec.tokenizer.codebook_size, spec.data.num_classes, spec.grid)


def initial_model(spec: StarRun) -> GPT:
    """The transformer that training starts from: fresh, or the weights that the spec names. Seeds torch's global generator.

    Raises:
        DataError: the weights cannot be read, or do not fit the section `model`.
    """
    torch.manual_seed(spec.seed)
    model = build_model(spec)
    if spec.model.weights:
        path = Path(spec.model.weights)
        fit(model, load_state(path), path, "model")
    return model


def build_objective(spec: StarRun, terms: Sequence[Term]) -> Objective:
    """A run's objective before its first step.

    Raises:
        DataError: as `initial_model`.
        ValueError: the terms cannot be combined.
    """
    return Objective(cast(Any, initial_model(spec)), terms, spec.selfguided.ema_decay, spec.selfguided.ema_ramp)


class Trainer:
    """Trains the model of a run on a code store.

    Args:
        folder: where checkpoints are saved; training resumes from the newest in it.
        record: receives (step, metrics).
        progress: receives (done, total) steps.
        stop: asked after each step and batch of a validation; when true on any rank, the state is saved and `Stopped` raised.
        ranks: the processes that train together; each has a trainer.
        terms: the terms of the objective; those that the spec names when None.

    Raises:
        DataError: weights do not fit the spec, or codes and spec differ.
        ValueError: the terms cannot be combined.
    """

    def __init__(
        self,
        spec: StarRun,
        train: CodeStore,
        test: CodeStore,
        folder: Path,
        device: torch.device,
        record: Record,
        progress: Callable[[int, int], None],
        stop: Callable[[], bool],
        ranks: Ranks = ALONE,
        terms: Sequence[Term] | None = None,
    ) -> None:
        # parts
        self.spec = spec
        self.data, self.test = train, test
        self.device = device
        self.ranks = ranks
        self.record, self.progress, self.stop = record, progress, stop
        self.rows = ranks.share(spec.optim.batch_size)
        self.checkpoints = Checkpoints(folder, spec.resources.keep_checkpoints)
        own_images = self.rows.stop - self.rows.start
        self.micro = MicroBatch(folder, min(spec.resources.micro_batch_size or own_images, own_images))
        # state
        self.terms = terms_of(spec) if terms is None else terms
        self.objective = build_objective(spec, self.terms).to(device)
        if spec.resources.compile:
            self._compile()
        self.learner = parallelize(self.objective, spec.resources.parallel, ranks)
        self.optimizer = build_adamw(self.objective.trained_parameters(), spec.optim)
        self.step, self.best_nll = 0, float("inf")
        self._resume()

    def train(self) -> dict[str, float]:
        """Run the remaining steps; return the validation loss `val_nll`, and how many `parameters` were trained, heads included.

        Raises:
            Stopped: `stop` was true on a rank, and the state is saved; or memory ran out on one of several ranks, and all start again.
            DivergedError: a loss is not finite, or far above that of guessing.
            DataError: memory runs out with one image a pass, a checkpoint cannot be written, or images are fewer than a batch.
        """
        total, resources = self.spec.last_step, self.spec.resources
        if self._validates():  # a state is saved before the validation at its step, which may not have come to its end
            self._validate()
        while self.step < total:
            metrics = self.train_step()
            self.step += 1
            recorded = self.step % RECORD_EVERY == 0 or self.step in (1, total)
            saved = self.step % resources.checkpoint_every == 0 and self.step < total
            stopped = self.ranks.any(self.stop())
            if recorded or saved or stopped:  # reading a number synchronises with the GPU
                values = self._checked(metrics)
                if recorded:
                    self.record(self.step, values)
            if saved or stopped:
                self.save()
            if stopped:
                self._leave()
            if self._validates():
                self._validate()
            self.progress(self.step, total)
        # saved before the final validation, of which a run that goes on from this state knows nothing
        if self.spec.optim.stop_at_step:
            self.save()
        nll = self._validate()
        self.checkpoints.wait()
        return {"val_nll": nll, "parameters": float(sum(one.numel() for one in self.objective.trained_parameters()))}

    def train_step(self) -> dict[str, Tensor]:
        """One optimizer step from state `step`, which is left for `train` to count.

        Returns:
            This rank's share of `loss` and of each loss of the terms, and `grad_norm` of the whole gradient before clipping; () each.

        Raises:
            Stopped: memory ran out on one of several ranks.
            DataError: memory runs out with one image a pass, or images are fewer than a batch.
        """
        rate = lr_at(self.step, self.spec.total_steps, self.spec.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = batch_at(self.spec, self.terms, self.data, self.step).to(self.device)
        metrics = self._gradients_with_memory(batch)
        limit = self.spec.optim.grad_clip or float("inf")
        metrics["grad_norm"] = full_tensor(nn.utils.clip_grad_norm_(self.objective.trained_parameters(), limit))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.update_teacher(self.step)
        return metrics

    def _gradients_with_memory(self, batch: Batch) -> dict[str, Tensor]:
        """Gradients of the whole batch, in passes that are halved until they fit in memory; the loss stays the same."""
        while True:
            try:
                return self._gradients(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            self.micro.halve()
            log.warning("memory ran out: %d images per forward pass from step %d on", self.micro.size, self.step)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if self.ranks.world_size > 1:  # the other ranks wait in a collective: all start again
                raise Stopped(
                    f"memory ran out; all processes go on from the last checkpoint, {self.micro.size} images a pass"
                )

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        self.objective.train()
        with self._autocast():
            targets = self.objective.targets(batch, self.rows, self.micro.size, self.ranks.gather)
        metrics: dict[str, Tensor] = {}
        for first in range(self.rows.start, self.rows.stop, self.micro.size):
            rows = slice(first, min(first + self.micro.size, self.rows.stop))
            with accumulating(self.learner, last=rows.stop == self.rows.stop):
                with self._autocast():
                    losses = self.objective.losses(batch, targets, rows, self.learner)
                (losses["loss"] * self.ranks.world_size).backward()  # gradients are averaged over ranks
            for name, value in losses.items():
                metrics[name] = metrics.get(name, torch.zeros((), device=self.device)) + value.detach()
        return metrics

    @torch.no_grad()
    def validation_nll(self) -> float:
        """The student's next-code loss in nats per code on the test images' centre crops, with their labels (none where none was
        trained), unmasked, without autocast.

        All ranks must call it. It leaves the objective in evaluation mode.

        Raises:
            DivergedError: it is not finite.
            Stopped: `stop` was true on a rank, and the state is saved.
        """
        self.objective.eval()
        size, total = self.spec.resources.sample_batch_size, 0.0
        starts = list(range(0, len(self.test), size))
        for turn in range(0, len(starts), self.ranks.world_size):
            if self.ranks.any(self.stop()):  # of a large model all of them take minutes
                self.save()
                self._leave()
            mine = turn + self.ranks.rank
            first = starts[min(mine, len(starts) - 1)]  # a sharded model needs all ranks in every pass
            codes = torch.from_numpy(self.test.center(first, first + size)).to(self.device)
            labels = torch.from_numpy(self.test.labels[first : first + size]).to(self.device)
            if self.spec.is_unconditional:  # a class's row was never trained
                labels = torch.full_like(labels, self.spec.data.num_classes)
            logits = self.objective.learner(Pass(codes, labels)).logits
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="sum").item()
            total += loss if mine < len(starts) else 0.0
        total = self.ranks.all_reduce(torch.tensor(total, dtype=torch.float64, device=self.device)).item()
        return finite_nll(total / (len(self.test) * self.test.length), self.step)

    def _leave(self) -> NoReturn:
        self.checkpoints.wait()
        raise Stopped(f"the state after step {self.step} is saved")

    def save(self) -> None:
        """Save all that the next step depends on, in the background; the random state is the step's number. All ranks call it, one writes.

        Raises:
            DataError: the save before could not be written.
        """
        state = full_state_dict(self.objective, self.optimizer)
        if self.ranks.is_main:
            self.checkpoints.save(self.step, state)

    def student_state(self) -> dict[str, Tensor]:
        """The student's full state dict; all ranks must call it."""
        return {key: full_tensor(value) for key, value in cast(GPT, self.objective.student).state_dict().items()}

    def teacher_state(self) -> dict[str, Tensor] | None:
        """The teacher's full state dict, None without a teacher; all ranks must call it."""
        if self.objective.teacher is None:
            return None
        return {key: full_tensor(value) for key, value in self.objective.teacher.copy.state_dict().items()}

    def best_state(self) -> dict[str, Tensor] | None:
        """The student's weights with the lowest validation loss; None if resources.validate_every did not keep any."""
        best = self.checkpoints.best()
        return None if best is None else best["model"]

    def _validates(self) -> bool:
        """Whether training is validated after this step, which is not its last."""
        every = self.spec.resources.validate_every
        return every is not None and self.step % every == 0 and 0 < self.step < self.spec.last_step

    def _validate(self) -> float:
        nll = self.validation_nll()
        if self.spec.resources.validate_every:
            self.record(self.step, {"val_nll_by_step": nll})
            if nll < self.best_nll:  # the same number on every rank
                self.best_nll = nll
                weights = self.student_state()
                if self.ranks.is_main:
                    self.checkpoints.save_best({"step": self.step, "val_nll": nll, "model": weights})
        return nll

    def _resume(self) -> None:
        best = self.checkpoints.best()
        if best is not None:
            self.best_nll = best["val_nll"]
        newest = self.checkpoints.newest()
        if newest is not None:
            self.step = newest[0]
        self._check_agreement()
        if newest is not None:
            load_full_state_dict(self.objective, self.optimizer, renamed(newest[1]))

    def _check_agreement(self) -> None:
        """Check that all ranks go on from the same state: each reads the folder itself, and a network file system may show one less.

        Raises:
            OSError: they do not (ESTALE); the job is tried again.
        """
        own = torch.tensor([[self.step, self.best_nll, self.micro.stored]], dtype=torch.float64)
        seen = self.ranks.gather(own)
        if not torch.equal(seen, seen[:1].expand_as(seen)):
            steps = ", ".join(f"{step:.0f}" for step in seen[:, 0].tolist())
            raise OSError(
                errno.ESTALE, f"the processes see different states, after steps {steps}", str(self.checkpoints.folder)
            )

    def _checked(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        losses = [name for name in metrics if name != "grad_norm"]
        summed = self.ranks.all_reduce(torch.stack([metrics[name] for name in losses])).tolist()
        values = {**dict(zip(losses, summed, strict=True)), "grad_norm": metrics["grad_norm"].item()}
        rate = lr_at(self.step - 1, self.spec.total_steps, self.spec.optim)
        kept = max((path.name for path in self.checkpoints.folder.glob("step-*.pt")), default=None)
        where = (
            f"{self.checkpoints.folder / kept} holds the last good state."
            if kept
            else "No checkpoint was saved before."
        )
        check(values, self.step, self.spec.tokenizer.codebook_size, rate, where)
        return {**values, "lr": rate}

    def _compile(self) -> None:
        """Compile block by block: all blocks share the same code, and the state dict keeps its names."""
        teacher = self.objective.teacher
        for model in (self.objective.student, *([] if teacher is None else [teacher.copy])):
            for block in cast(GPT, model).layers:
                block.compile()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.spec.optim.precision == "bf16")

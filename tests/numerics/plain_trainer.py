"""ST-AR's training written a second time, plainly and in float64, from docs and the paper alone: nothing of `star` is imported.

The draws, the transformer, dropout, masks, losses, clipping, AdamW, the schedule and the teacher are all here, one after the other.
Only the derivative is PyTorch's. What is shared with `star` is a recipe for random numbers, so that both draw the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass
class Drawn:
    """The random choices of a step."""

    codes: Tensor
    """(B, M, T)."""
    labels: Tensor
    """(B, M), some of them the null label."""
    positions: list[int]
    token_mask: np.ndarray | None
    """(B, S, T) bool; None where nothing is masked."""
    seeds: np.ndarray | None
    """(B, S) of the sequences' dropout."""


def draw(spec: dict[str, Any], codes: np.ndarray, labels: np.ndarray, step: int) -> Drawn:
    """Images in a new order each epoch, distinct views, dropped labels, positions, masks, dropout: by (seed, step) alone."""
    seed, size, guided, model = spec["seed"], spec["optim"]["batch_size"], spec["selfguided"], spec["model"]
    views, length = guided["num_views"], codes.shape[-1]
    epoch, place = divmod(step, len(codes) // size)
    order = np.random.default_rng((seed, 1, epoch)).permutation(len(codes))
    images = sorted(order[place * size : (place + 1) * size])
    numbers = np.random.default_rng((seed, 2, step)).random((size, codes.shape[1]))
    chosen = [list(np.argpartition(row, views - 1)[:views]) for row in numbers]
    picked = np.stack([[codes[image, view] for view in mine] for image, mine in zip(images, chosen, strict=True)])

    generator = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, 3, step)).generate_state(1)[0]))
    alone = model["class_dropout_per"] == "image"
    uniform = torch.rand(size, 1 if alone else views, generator=generator).tolist()
    null = spec["data"]["num_classes"]
    shown = [
        [
            null if uniform[b][0 if alone else m] < model["class_dropout_prob"] else int(labels[image])
            for m in range(views)
        ]
        for b, image in enumerate(images)
    ]
    contrastive = guided["contrastive_weight"] > 0
    positions = torch.randperm(length, generator=generator).tolist()[: guided["num_positions"] if contrastive else 0]
    seen = min(guided["student_views"], views)
    token_mask = None
    if guided["mask_ratio"] > 0 and (guided["mim_weight"] > 0 or guided["mask_when"] == "always"):
        count = round(guided["mask_ratio"] * (length - 1))
        weights = torch.rand(size, seen, length - 1, generator=generator).numpy()
        token_mask = np.zeros((size, seen, length), dtype=bool)
        for b in range(size):
            for m in range(seen):
                token_mask[b, m, 1 + np.argsort(weights[b, m])[:count]] = True
    seeds = None
    if max(model["token_dropout"], model["residual_dropout"], model["ffn_dropout"]) > 0:
        seeds = torch.randint(2**31 - 1, (size, seen), generator=generator).numpy().astype(np.uint32)
    return Drawn(torch.from_numpy(picked).long(), torch.tensor(shown), positions, token_mask, seeds)


# the transformer


def turned(x: Tensor, grid: int, base: float) -> Tensor:
    """(T, d) by the 2-D rotary embedding; the condition, input 0, becomes zero; input p holds the code of cell p - 1."""
    quarter, out = x.shape[1] // 4, torch.zeros_like(x)
    columns = []
    for pair in range(2 * quarter):
        rate = base ** (-(pair % quarter) / quarter)
        cell = torch.arange(len(x) - 1, dtype=torch.float64)
        angle = ((cell // grid) if pair < quarter else (cell % grid)) * rate
        a, b = x[1:, 2 * pair], x[1:, 2 * pair + 1]
        columns += [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    return torch.cat([out[:1], torch.stack(columns, dim=1)])


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + eps).sqrt() * weight


def mixed(x: Any) -> Any:
    """A hash of 32-bit numbers: an int, or an array of uint64 that holds such."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * factor % 2**32
    return x ^ (x >> 16)


GOLDEN = 0x9E3779B9


def dropped(x: Tensor, p: float, seed: int | None, layer: int, site: int) -> Tensor:
    """(T, D) with entries zeroed by the hash of (sequence, layer, site, place); layer 0 is the embedding."""
    if seed is None or p == 0:
        return x
    start = seed if layer == 0 else mixed((seed + layer * GOLDEN) % 2**32)
    own = mixed((start + site * GOLDEN) % 2**32)
    places = np.arange(x.numel(), dtype=np.uint64) * GOLDEN % 2**32
    number = mixed(own ^ mixed(places)) % 2**31
    keep = torch.from_numpy(number >= int(p * 2**31)).view_as(x)
    return torch.where(keep, x / (1 - p), torch.zeros_like(x))


def hidden_states(
    state: State,
    model: dict[str, Any],
    codes: Tensor,
    label: Tensor,
    token_mask: np.ndarray | None,
    mask_self: bool,
    seed: int | None,
) -> list[Tensor]:
    """Of one sequence: the residual stream (T, D) after each block, then after the final norm."""
    length, heads = len(codes), model["n_head"]
    grid, width = round(length**0.5), model["dim"] // model["n_head"]
    x = torch.cat(
        [state["cls_embedding.embedding_table.weight"][label][None], state["tok_embeddings.weight"][codes[:-1]]]
    )
    x = dropped(x, model["token_dropout"], seed, 0, 0)
    forbidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    if token_mask is not None:
        for key in np.nonzero(token_mask)[0]:
            for query in range(length):
                forbidden[query, key] |= bool(mask_self or query != key)
    states = []
    for layer in range(1, model["n_layer"] + 1):
        name = f"layers.{layer - 1}."
        y = (
            normed(x, state[name + "attention_norm.weight"], model["norm_eps"])
            @ state[name + "attention.wqkv.weight"].T
        )
        mixes = []
        for head in range(heads):
            query, key, value = (y[:, (part * heads + head) * width :][:, :width] for part in range(3))
            scores = (
                turned(query, grid, model["rope_base"]) @ turned(key, grid, model["rope_base"]).T / math.sqrt(width)
            )
            scores = scores.masked_fill(forbidden, -math.inf)
            mixes.append(scores.softmax(1) @ value)
        out = torch.cat(mixes, dim=1) @ state[name + "attention.wo.weight"].T
        x = x + dropped(out, model["residual_dropout"], seed, layer, 1)
        y = normed(x, state[name + "ffn_norm.weight"], model["norm_eps"])
        gate = y @ state[name + "feed_forward.w1.weight"].T
        out = (gate * gate.sigmoid() * (y @ state[name + "feed_forward.w3.weight"].T)) @ state[
            name + "feed_forward.w2.weight"
        ].T
        x = x + dropped(out, model["ffn_dropout"], seed, layer, 2)
        states.append(x)
    return [*states, normed(x, state["norm.weight"], model["norm_eps"])]


def negative_log_likelihood(state: State, final: Tensor, codes: Tensor) -> Tensor:
    """Summed over the positions of one sequence."""
    log_probabilities = (final @ state["output.weight"].T).log_softmax(1)
    return -sum(log_probabilities[t, code] for t, code in enumerate(codes.tolist()))  # type: ignore[return-value]


# the losses


def projected(state: State, layers: int, x: Tensor) -> Tensor:
    """Linear layers with SiLU between."""
    for i in range(layers):
        x = x @ state[f"{2 * i}.weight"].T + state[f"{2 * i}.bias"]
        x = x * x.sigmoid() if i + 1 < layers else x
    return x


def distance(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """Of one position's features (D,)."""
    if kind == "cosine":
        return 1 - (a @ b) / (a.norm() * b.norm())
    apart = (a - b).abs()
    return (apart.square() if kind == "l2" else torch.where(apart < 1, apart.square() / 2, apart - 0.5)).mean()


def contrast(query: Tensor, keys: list[Tensor], own: int, guided: dict[str, Any]) -> Tensor:
    """One anchor against the keys of all images, of which number `own` is its positive."""
    unit = (lambda x: x / x.norm()) if guided["normalize"] else (lambda x: x)
    scores = torch.stack([unit(query) @ unit(key) for key in keys]) / guided["temperature"]
    ratio = scores.log_softmax(0)[own]
    return -ratio if guided["contrastive_form"] == "infonce" else -ratio.exp()


@dataclass
class Models:
    """All weights: of the student and the projector, which are trained, and of those that follow."""

    student: State
    projector: State
    teacher: State
    teacher_projector: State


def losses(spec: dict[str, Any], layer: int, models: Models, batch: Drawn) -> dict[str, Tensor]:
    """Eq. 8 and its parts, sequence by sequence and pair by pair."""
    guided, model = spec["selfguided"], spec["model"]
    images, views, length = batch.codes.shape
    seen, drawn, layers = min(guided["student_views"], views), batch.positions, guided["projector_layers"]
    mim, contrastive = guided["mim_weight"] > 0, guided["contrastive_weight"] > 0
    feature_layer = -1 if guided["mim_tap"] == "post_norm" else -2
    ar, apart, queries, keys = [], [], {}, {}
    taught: list[Tensor] = []
    for b, m in np.ndindex(images, views):
        codes, label = batch.codes[b, m], batch.labels[b, m]
        if mim or contrastive:
            with torch.no_grad():
                taught = hidden_states(models.teacher, model, codes, label, None, True, None)
        if contrastive:
            key = taught[layer - 1][drawn]
            keys[b, m] = projected(models.teacher_projector, layers, key) if guided["teacher_projector"] else key
        if m >= seen:
            continue
        token_mask = np.zeros(length, bool) if batch.token_mask is None else batch.token_mask[b, m]
        seed = None if batch.seeds is None else int(batch.seeds[b, m])
        states = hidden_states(models.student, model, codes, label, token_mask, guided["mask_self"], seed)
        ar.append(negative_log_likelihood(models.student, states[-1], codes) / length)
        counted = [t for t in range(length) if guided["mim_positions"] == "all" or token_mask[t]] if mim else []
        apart += [distance(states[feature_layer][t], taught[feature_layer][t], guided["mim_distance"]) for t in counted]
        if contrastive:
            queries[b, m] = projected(models.projector, layers, states[layer - 1][drawn])
    found = {"ar_loss": torch.stack(ar).mean()}
    loss = found["ar_loss"]
    if mim:
        found["mim_loss"] = torch.stack(apart).mean()
        loss = loss + guided["mim_weight"] * found["mim_loss"]
    pairs = contrasts(guided, queries, keys) if contrastive else {}
    for name, terms in pairs.items():
        found[name] = torch.stack(terms).sum() / (len(terms) if guided["reduction"] == "mean" else images)
        factor = 0.5 if len(pairs) == 2 else guided["single_contrastive_scale"]
        loss = loss + guided["contrastive_weight"] * factor * found[name]
    return {"loss": loss, **found}


def contrasts(
    guided: dict[str, Any], queries: dict[tuple[int, int], Tensor], keys: dict[tuple[int, int], Tensor]
) -> dict[str, list[Tensor]]:
    """Eq. 6 and Eq. 7: the terms of each, from (image, view) -> features (K, D)."""
    images, views = (max(place[i] for place in keys) + 1 for i in (0, 1))
    step, view = [], []
    for (b, m), query in queries.items():
        for i, j in np.ndindex(len(query), len(query)):
            if i != j:
                step.append(contrast(query[i], [keys[v, m][j] for v in range(images)], b, guided))
        for i, n in np.ndindex(len(query), views):
            if n != m:
                view.append(contrast(query[i], [keys[v, n][i] for v in range(images)], b, guided))
    wanted = {"inter_step_loss": (guided["inter_step"], step), "inter_view_loss": (guided["inter_view"], view)}
    return {name: terms for name, (on, terms) in wanted.items() if on}


# the trainer


def rate(optim: dict[str, Any], step: int) -> float:
    peak = optim["lr"] * optim["batch_size"] / 256
    if step < optim["warmup_steps"]:
        return peak * (step + 1) / optim["warmup_steps"]
    if optim["schedule"] == "constant":
        return peak
    return (
        peak / 2 * (1 + math.cos(math.pi * (step - optim["warmup_steps"]) / (optim["steps"] - optim["warmup_steps"])))
    )


class PlainTrainer:
    """Trains `models` in place on codes (N, V, T) and labels (N,)."""

    def __init__(self, spec: dict[str, Any], layer: int, models: Models, codes: np.ndarray, labels: np.ndarray) -> None:
        self.spec, self.layer, self.models, self.codes, self.labels = spec, layer, models, codes, labels
        self.moments = {id(p): (torch.zeros_like(p), torch.zeros_like(p)) for p in self.trained()}

    def trained(self) -> list[Tensor]:
        return [*self.models.student.values(), *self.models.projector.values()]

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step (from 0); its losses and the norm of the gradient before it is clipped."""
        optim = self.spec["optim"]
        for parameter in self.trained():
            parameter.requires_grad_(True)
        found = losses(self.spec, self.layer, self.models, draw(self.spec, self.codes, self.labels, step))
        gradients = torch.autograd.grad(found["loss"], self.trained())
        norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
        shrunk = min(1.0, optim["grad_clip"] / (norm + 1e-6)) if optim["grad_clip"] else 1.0
        with torch.no_grad():
            for parameter, gradient in zip(self.trained(), gradients, strict=True):
                self._adamw(parameter, gradient * shrunk, rate(optim, step), step + 1)
            self._follow(step)
        return {name: value.item() for name, value in found.items()} | {"grad_norm": norm}

    def _adamw(self, parameter: Tensor, gradient: Tensor, lr: float, count: int) -> None:
        optim = self.spec["optim"]
        first, second = self.moments[id(parameter)]
        if parameter.ndim >= 2:
            parameter -= lr * optim["weight_decay"] * parameter
        first += (1 - optim["beta1"]) * (gradient - first)
        second += (1 - optim["beta2"]) * (gradient**2 - second)
        parameter -= (
            lr * (first / (1 - optim["beta1"] ** count)) / ((second / (1 - optim["beta2"] ** count)).sqrt() + 1e-8)
        )

    def _follow(self, step: int) -> None:
        guided = self.spec["selfguided"]
        decay = min(guided["ema_decay"], (1 + step) / (10 + step)) if guided["ema_ramp"] else guided["ema_decay"]
        for teacher, student in (
            (self.models.teacher, self.models.student),
            (self.models.teacher_projector, self.models.projector),
        ):
            for name in teacher:
                teacher[name].copy_(decay * teacher[name] + (1 - decay) * student[name])

    def validation(self, codes: np.ndarray, labels: np.ndarray) -> float:
        """Nats per code of (N, 1, T), under their labels, with nothing masked or dropped."""
        with torch.no_grad():
            total = 0.0
            for one, label in zip(torch.from_numpy(codes[:, 0]).long(), torch.from_numpy(labels), strict=True):
                final = hidden_states(self.models.student, self.spec["model"], one, label, None, True, None)[-1]
                total += negative_log_likelihood(self.models.student, final, one).item()
        return total / codes[:, 0].size

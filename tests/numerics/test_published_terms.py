"""Each term of `star_objectives` against its formula written plainly, in double precision, pair by pair."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from star.errors import DataError
from star.objectives.batch import Batch
from star.objectives.next_token import NextToken
from star.objectives.objective import Objective
from star.objectives.term import Term
from star_objectives.cluster import Cluster, balanced_clusters
from tests.numerics.published import ARRANGING, EVEN, FIELDS, SETTING, term, tokenizer
from tests.numerics.test_terms import IMAGES, batch_of, gradients, objective_of

GRID, LENGTH = 3, 9


def computed(*terms: Term, student_views: int = 2, progress: float = 0.0) -> tuple[Objective, Batch, dict[str, Tensor]]:
    objective, batch = objective_of([NextToken(), *terms]), batch_of([NextToken(), *terms], student_views, progress)
    return objective, batch, objective.losses(batch, objective.targets(batch))


def states(model: Any, batch: Batch, image: int, view: int) -> Any:
    """Hidden states of one sequence alone, with what the student is fed."""
    fed = batch.codes if batch.inputs is None else batch.inputs
    return model.features(fed[image, view][None], batch.labels[image, view][None], layers=[1, 2])


def apart(a: Tensor, b: Tensor) -> float:
    return 1 - (torch.dot(a, b) / (a.norm() * b.norm())).item()


def sequences(batch: Batch) -> list[tuple[int, int]]:
    return [(image, view) for image in range(IMAGES) for view in range(batch.student_views)]


@pytest.mark.parametrize("student_views", [1, 2])
@pytest.mark.parametrize("wrap", [False, True])
def test_foresight(student_views: int, wrap: bool) -> None:
    """Mean over cells of an offset, summed over offsets; the teacher sees clean codes, whatever the student is fed."""
    own = term("foresight", wrap=wrap)
    objective, batch, losses = computed(term("noise"), own, student_views=student_views)
    assert objective.teacher is not None and own.head is not None
    total = 0.0
    for number, step in enumerate((0, 1, GRID)):
        found = []
        for image, view in sequences(batch):
            student = states(objective.student, batch, image, view).layer_features[1][0]
            clean = (batch.codes[image, view][None], batch.labels[image, view][None])
            teacher = objective.teacher.copy.features(*clean, layers=[1]).layer_features[1][0]
            for cell in range(LENGTH):
                leaves_the_row = step == 1 and cell % GRID == GRID - 1 and not wrap
                if cell + step < LENGTH and not leaves_the_row:
                    found.append(apart(own.head[number](student[cell]), teacher[cell + step]))  # type: ignore[index]
        total += sum(found) / len(found)
    assert losses["foresight_loss"].item() == pytest.approx(total, abs=1e-12)


def test_foresights_weight_follows_the_schedule() -> None:
    own = term("foresight", start_at=0.05, halve_at=0.5)
    assert [own.weight_at(at) for at in (0.0, 0.049, 0.05, 0.49, 0.5, 0.99)] == [0.0, 0.0, 2.0, 2.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="one is there twice"):
        term("foresight", offsets=["here", "here"])


@pytest.mark.parametrize("layers", [(1, 2), (1, None), (None, 2)])
@pytest.mark.parametrize("left_out", [True, False])
def test_codebook(layers: tuple[int | None, int | None], left_out: bool) -> None:
    """A state that has just read a code, and one that is to predict it, against the code's vector; replaced codes left out."""
    encode, decode = layers
    own = term("codebook", encode_layer=encode, decode_layer=decode, leave_out_replaced=left_out)
    objective, batch, losses = computed(term("noise"), own)
    assert batch.inputs is not None and not torch.equal(batch.inputs, batch.codes)
    vectors = tokenizer().codebook().double()
    assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 32)
    read, ahead = [], []
    heads: Any = own.head
    for image, view in sequences(batch):
        found = states(objective.student, batch, image, view).layer_features
        for cell in range(LENGTH):
            vector = vectors[batch.codes[image, view, cell]]
            if decode:
                ahead.append(apart(heads["decode"](found[decode][0, cell]), vector))
            if encode and cell < LENGTH - 1:
                same = bool(batch.inputs[image, view, cell] == batch.codes[image, view, cell])
                value = apart(heads["encode"](found[encode][0, cell + 1]), vector)
                read.append(value if same or not left_out else 0.0)
    assert losses["codebook_encode_loss"].item() == pytest.approx(sum(read) / max(1, len(read)), abs=1e-6)
    assert losses["codebook_decode_loss"].item() == pytest.approx(sum(ahead) / max(1, len(ahead)), abs=1e-6)
    assert (losses["codebook_encode_loss"] > 0) == (encode is not None)


def test_a_codebook_term_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="is null as decode_layer is"):
        term("codebook", encode_layer=None, decode_layer=None)


def test_cluster() -> None:
    """The probabilities of all codes of the right one's cluster, added up."""
    own = term("cluster", size=4)
    objective, batch, losses = computed(own)
    clusters = own.clusters  # type: ignore[attr-defined]
    assert clusters.bincount().tolist() == [4] * 8
    found = []
    for image, view in sequences(batch):
        chances = objective.student.output(states(objective.student, batch, image, view).final[0]).softmax(-1)
        for cell in range(LENGTH):
            mates = clusters == clusters[batch.codes[image, view, cell]]
            found.append(-math.log(chances[cell, mates].sum().item()))
    assert losses["cluster_loss"].item() == pytest.approx(sum(found) / len(found), abs=1e-12)
    sizes = {
        codes: Cluster(Cluster.config(), replace(SETTING, codebook_size=codes)).size for codes in (256, 512, 16384)
    }
    assert sizes == {256: 16, 512: 16, 16384: 128}
    with pytest.raises(ValueError, match="5 is no divisor of the codebook's 32 codes"):
        term("cluster", size=5)


def test_clusters_are_of_one_size_and_of_like_vectors() -> None:
    """Four tight bundles in any order are found as they are; of random rows, those of a cluster are more alike than others."""
    generator = torch.Generator().manual_seed(0)
    bundle = torch.arange(24) % 4
    centres = torch.eye(4, dtype=torch.float64)
    rows = (centres[bundle] + 0.05 * torch.randn(24, 4, generator=generator)).numpy()
    found = balanced_clusters(rows * 7.0, 6)
    assert all(len(set(bundle[found == one].tolist())) == 1 for one in range(4))
    rows = F.normalize(torch.randn(256, 8, generator=generator), dim=1).double().numpy()
    found = balanced_clusters(rows, 16)
    alike = rows @ rows.T
    same = found[:, None] == found[None, :]
    assert sorted(set(torch.from_numpy(found).bincount().tolist())) == [16]
    assert alike[same].mean() > alike[~same].mean() + 0.4


def test_mtp() -> None:
    """The state that has read a cell predicts the one below, through a block of the term's own."""
    own = term("mtp")
    objective, batch, losses = computed(own)
    head: Any = own.head
    found = []
    for image, view in sequences(batch):
        x = states(objective.student, batch, image, view).final
        logits = head["head"](head["norm"](head["blocks"][0](x, objective.student.rope, None)))[0]
        for read in range(1, LENGTH - GRID + 1):  # cells, counted from 1
            found.append(-logits[read].log_softmax(-1)[batch.codes[image, view, read + GRID - 1]].item())
    assert losses["mtp_loss"].item() == pytest.approx(sum(found) / len(found), abs=1e-12)


@pytest.mark.parametrize("among, tokens", [("batch", 20), ("batch", 2048), ("image", 60), ("image", 2)])
def test_tcr(among: str, tokens: int) -> None:
    """Every drawn state through two draws of dropout, told from the others by hand."""
    own = term("tcr", among=among, tokens=tokens)
    objective, batch, losses = computed(own)
    head: Any = own.head
    chosen = torch.zeros(IMAGES, 2, LENGTH, dtype=torch.bool)
    if among == "batch":
        chosen.flatten()[batch.drawn["tcr"]] = True
        assert chosen.sum() == min(tokens, 2 * IMAGES * 8)
    else:
        chosen.scatter_(-1, batch.drawn["tcr"], True)
        assert (chosen.sum(-1) == min(8, max(2, tokens // (2 * IMAGES)))).all()
    assert not chosen[:, :, 0].any(), "the condition's state is none"
    sides: list[tuple[tuple[int, int], Tensor, Tensor]] = []
    for image, view in sequences(batch):
        x = states(objective.student, batch, image, view).final
        seeds = batch.drawn["tcr_seeds"][image, view]
        one, other = (F.normalize(head(head.dropped(x, seeds[[side]]))[0], dim=-1) for side in (0, 1))
        assert not torch.equal(one, other)
        sides += [((image, view), one[at], other[at]) for at in chosen[image, view].nonzero().flatten()]
    found = []
    for number, (sequence, own_side, _) in enumerate(sides):
        rivals = [at for at, (theirs, _, _) in enumerate(sides) if among == "batch" or theirs == sequence]
        scores = torch.stack([own_side @ sides[at][2] for at in rivals]) / 0.07
        found.append(-scores.log_softmax(0)[rivals.index(number)].item())
    assert losses["tcr_loss"].item() == pytest.approx(sum(found) / len(found), abs=1e-12)


def test_tcr_among_the_batch_refuses_a_part_of_it() -> None:
    objective, batch, _ = computed(term("tcr", among="batch"))
    with pytest.raises(
        DataError,
        match="all 12 sequences of the batch, and a pass has 4, .*; give among: image",
    ):
        objective.losses(batch, objective.targets(batch), slice(0, 2))


def test_noise_replaces_input_codes_alone_and_less_and_less() -> None:
    """A sequence's share is drawn from U(0, F): half of F on average, F falling to 0 at three quarters."""
    generator = torch.Generator()
    codes = torch.randint(32, (400, 1, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(400, 1, dtype=torch.long)
    for progress, highest in ((0.0, 1.0), (0.375, 0.5), (0.75, 0.0), (0.9, 0.0)):
        batch = Batch(codes, labels, torch.arange(LENGTH), 1, progress)
        term("noise").draw(batch, generator.manual_seed(2))
        assert batch.inputs is not None
        replaced = batch.drawn["noise"]
        assert torch.equal(batch.inputs[~replaced], codes[~replaced])
        assert replaced.float().mean().item() == pytest.approx(highest / 2, abs=0.03)
        shares = replaced.float().mean(-1)
        assert highest == 0 or (shares.min() == 0 and shares.max() > 0.7 * highest), (
            "each sequence has a share of its own"
        )
    other = (batch.inputs != codes).float().mean()
    assert other == 0


@pytest.mark.parametrize("name", FIELDS)
def test_passes_of_any_size_give_the_whole_batch(name: str) -> None:
    objective, batch, losses = computed(own := term(name))
    whole = gradients(objective, batch, IMAGES)
    assert set(own.loss_names) <= set(losses)
    for each, parameter in objective.learner.named_parameters():
        assert whole[each].abs().sum() > 0, f"{each} {tuple(parameter.shape)} is not trained"
    for micro in (1, 4):
        torch.testing.assert_close(gradients(objective, batch, micro), whole, atol=1e-9, rtol=1e-9)


def test_the_average_is_kept_and_read_by_nobody() -> None:
    objective, batch, losses = computed(term("ema"))
    assert objective.teacher is not None and set(losses) == {"loss", "ar_loss"}
    before = [one.clone() for one in objective.teacher.copy.parameters()]
    for parameter in objective.student.parameters():
        parameter.data += 1.0
    objective.update_teacher(0)
    decay = objective.teacher.decay
    for old, now in zip(before, objective.teacher.copy.parameters(), strict=True):
        assert not torch.equal(old, now) or decay == 1
    assert SETTING.length == LENGTH


def test_nobody_runs_the_average_that_is_only_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, batch, _ = computed(term("ema"))
    assert objective.teacher is not None
    ran: list[int] = []
    objective.teacher.copy.layers[0].register_forward_hook(lambda *_: ran.append(1))
    objective.losses(batch, objective.targets(batch))
    assert not ran
    other, batch, _ = computed(term("ema"), term("foresight"))
    assert other.teacher is not None
    other.teacher.copy.layers[0].register_forward_hook(lambda *_: ran.append(1))
    other.targets(batch)
    assert ran == [1]


def flops_of(*terms: Term, grid: int = GRID) -> int:
    """Counted on a step of all sequences, in float64, where products are PyTorch's own."""
    objective, batch = objective_of([NextToken(), *terms], grid), batch_of([NextToken(), *terms], grid=grid)
    with FlopCounterMode(display=False) as counted:
        objective.losses(batch, objective.targets(batch))["loss"].backward()
    return int(counted.get_total_flops())


@pytest.mark.parametrize("name", FIELDS)
def test_the_cost_that_a_term_tells_is_what_is_counted(name: str) -> None:
    """Beside the teacher's block: attention is counted whole, of which a causal one is half."""
    own = term(name)
    added = (flops_of(own) - flops_of()) / (2 * IMAGES)
    block = 2 * (4 * 16**2 + 3 * 16 * 48) * LENGTH + 4 * 16 * LENGTH**2
    added -= block if name == "foresight" else 0
    assert own.flops() == pytest.approx(added, rel=0.06, abs=1), name


@pytest.mark.parametrize("name", ["registers", "coarse"])
def test_the_cost_of_another_sequence_is_what_is_counted(name: str) -> None:
    own = term(name, EVEN)
    added = (flops_of(own, grid=4) - flops_of(grid=4)) / (2 * IMAGES)
    told = own.flops() / (0.5 if name == "coarse" else 1)  # of the half in which it is on
    assert told == pytest.approx(added, rel=0.25), name


@pytest.mark.parametrize("name", [*FIELDS, *ARRANGING])
def test_terms_compute_losses_in_float32_under_autocast(name: str) -> None:
    setting, grid = (EVEN, 4) if name in ARRANGING else (SETTING, GRID)
    terms = [NextToken(), term(name, setting)]
    objective, batch = objective_of(terms, grid).float(), batch_of(terms, grid=grid)
    with torch.autocast("cpu", torch.bfloat16):
        losses = objective.losses(batch, objective.targets(batch))
    losses["loss"].backward()
    exact = objective_of(terms, grid).float()
    wanted = exact.losses(batch, exact.targets(batch))
    for loss, value in losses.items():
        assert value.dtype == torch.float32 and value.isfinite(), loss
        torch.testing.assert_close(value, wanted[loss], atol=0.05, rtol=0.05)
    assert all(one.grad is not None and one.grad.isfinite().all() for one in objective.trained_parameters())

"""What Slurm is asked for, read as text: arrays, dependencies, names, interpreters. No Slurm is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star.errors import SpecError
from star.ledger.states import Allocation
from star.pipeline.config import ResourceSpec
from star.rundir import Home, JobDir
from star.scheduler.estimate import History
from star.scheduler.executor import Start
from star.scheduler.plan import make_plan
from star.scheduler.slurm_script import ARRAY, parts_of
from star.scheduler.time_limits import beyond_limits
from star.spec.load import load
from tests.helpers import ROOT, star_exp

SLURM = {"slurm": {"partition": "gpu", "options": {"comment": "all"}}}


def start(stage: str, name: str, after: tuple[str, ...] = (), row: str = "a", **resources: Any) -> Start:
    title = ("table4", stage, row)
    spec = ResourceSpec.model_validate(resources)
    handles = tuple({"job": number} for number in after)
    return Start(
        JobDir(Path("/home/jobs") / name),
        stage,
        name,
        Path("/home/code/x"),
        spec,
        Allocation(None, executor="slurm"),
        handles,
        1,
        title,
    )


def shapes(starts: list[Start]) -> list[tuple[list[str], str | None]]:
    return [([one.name for one in part.starts], part.dependency) for part in parts_of(starts)]


def test_what_asks_for_the_same_is_one_array_of_whatever_stage() -> None:
    starts = [
        start("score", "s1"),
        start("probe", "p1"),
        start("score", "s2"),
        start("attention", "a1", probe={"minutes": 3}),
    ]
    assert shapes(starts) == [(["s1", "p1", "s2", "a1"], None)]
    longer = [
        start("score", "s1"),
        start("probe", "p1", probe={"minutes": 3}),
        start("score", "s2", score={"threads": 2}),
    ]
    assert shapes(longer) == [(["s1"], None), (["p1"], None), (["s2"], None)]


def test_what_keeps_nothing_is_not_started_again_after_its_time() -> None:
    (kept,), (lost,) = parts_of([start("train", "t")]), parts_of([start("probe", "p")])
    assert (kept.timeouts, lost.timeouts) == (20, 0)
    assert len(parts_of([start("train", "t"), start("probe", "p")])) == 2
    (part,) = parts_of([start("train", "t", slurm={"timeouts": 3})])
    assert part.timeouts == 3


def test_all_wait_for_one() -> None:
    starts = [start("train", f"t{i}", ("77", "12_3")) for i in range(3)]
    assert shapes(starts) == [(["t0", "t1", "t2"], "afterok:12_3:77")]


def test_each_waits_for_its_own_of_an_array_and_all_for_one_more() -> None:
    """In whatever order they are planned: the elements are put where their array has them."""
    starts = [start("generate", f"g{i}", (f"12_{i}", "9")) for i in (2, 0, 1)]
    assert shapes(starts) == [(["g0", "g1", "g2"], "aftercorr:12,afterok:9")]
    two = [start("score", f"s{i}", (f"12_{i}", f"40_{i}")) for i in range(3)]
    assert shapes(two) == [(["s0", "s1", "s2"], "aftercorr:12:40")]


def test_more_than_ten_keep_their_order() -> None:
    starts = [start("generate", f"g{i}", (f"12_{i}",)) for i in range(12)]
    assert shapes(starts) == [([f"g{i}" for i in range(12)], "aftercorr:12")]


@pytest.mark.parametrize(
    "after",
    [
        [("12_0",), ("12_2",)],  # the second is not the array's second
        [("12_1",), ("12_1", "12_0")],
        [("12_0", "40_1"), ("12_1", "40_0")],
        [("12",), ("13",)],
        [("12_0",), ("13_1",)],
    ],
    ids=str,
)
def test_what_slurm_cannot_say_in_one_word_is_said_one_by_one(after: list[tuple[str, ...]]) -> None:
    parts = shapes([start("generate", f"g{i}", numbers) for i, numbers in enumerate(after)])
    assert parts == [([f"g{i}"], "afterok:" + ":".join(sorted(numbers))) for i, numbers in enumerate(after)]


@given(
    st.lists(
        st.lists(st.sampled_from(["5", "7_0", "7_1", "7_2", "8_0", "8_1"]), max_size=3, unique=True),
        min_size=1,
        max_size=6,
    )
)
def test_nobody_waits_for_less_or_more_than_it_needs(after: list[list[str]]) -> None:
    starts = [start("generate", f"g{i}", tuple(numbers)) for i, numbers in enumerate(after)]
    waited: dict[str, set[str]] = {}
    for part in parts_of(starts):
        for index, one in enumerate(part.starts):
            found: set[str] = set()
            for kind, numbers in re.findall(r"(aftercorr|afterok):([\d_:]+)", part.dependency or ""):
                found |= {f"{n}_{index}" if kind == "aftercorr" else n for n in numbers.split(":")}
            waited[one.name] = found
    assert waited == {f"g{i}": set(numbers) for i, numbers in enumerate(after)}


def test_arrays_are_as_long_as_clusters_allow() -> None:
    parts = parts_of([start("train", f"t{i}") for i in range(ARRAY + 3)])
    assert [len(part.starts) for part in parts] == [ARRAY, 3]


def test_a_stage_says_more_than_all() -> None:
    resources = {
        "device": "cuda",
        "train": {
            "processes": 2,
            "threads": 3,
            "memory_gb": 1.5,
            "minutes": 90,
            "slurm": {"qos": "long", "options": {"nice": "5"}},
        },
        "dataset": {"slurm": {"partition": "cpu"}},
        "probe": {"device": "cpu"},
        **SLURM,
    }
    (train,), (dataset,), (probe,) = (
        parts_of([start(stage, stage, **resources)]) for stage in ("train", "dataset", "probe")
    )
    script = train.script("name", Path("/home/slurm"))
    for line in (
        "partition=gpu",
        "qos=long",
        "gpus-per-node=2",
        "cpus-per-task=6",
        "mem=1536M",
        "time=90",
        "comment=all",
        "nice=5",
    ):
        assert f"#SBATCH --{line}\n" in script, script
    assert "wckey" not in script and "--requeue" in script
    assert "partition=cpu" in dataset.script("x", Path("/h")) and "gpus" not in dataset.script("x", Path("/h"))
    assert "partition=gpu" in probe.script("x", Path("/h")) and "gpus" not in probe.script("x", Path("/h"))


def test_another_python_in_a_container() -> None:
    slurm = {"python": "/opt/my python", "launcher": "apptainer exec --nv 'a b.sif'", "srun": ["--container-image=x y"]}
    (part,) = parts_of([start("train", "t", slurm=slurm | {"setup": ["module load cuda"]})])
    script = part.script("name", Path("/home/slurm"))
    assert script.rstrip().endswith(
        "apptainer exec --nv 'a b.sif' '/opt/my python' -u -m submitit.core._submit /home/slurm"
    )
    assert "'--container-image=x y' apptainer" in script
    assert script.index("module load cuda") < script.index("export PYTHONPATH=/home/code/x")


def test_names_are_for_people() -> None:
    (one,) = parts_of([start("train", "t", row="mask_ratio=0.35, lr=1e-3 · seed 0")])
    assert one.name("ab12") == "table4.train.mask_ratio=0.35_lr=1e-3_seed_0.ab12"
    (array,) = parts_of([start("score", "s", row="a"), start("probe", "p", row="b")])
    assert array.name("ab12") == "table4.score+probe.2_jobs.ab12"
    (shared,) = parts_of([start("encode", "e", row="")])
    assert shared.name("ab12") == "table4.encode.ab12"
    (long,) = parts_of([start("train", "t", row="文字 " + "x" * 300)])
    assert len(long.name("ab12")) < 140 and "," not in long.name("ab12")


def test_the_former_way_is_read_and_explained(tmp_path: Path) -> None:
    sets = ["resources.threads={train: 2}", "resources.minutes.probe=7"]
    experiment = load(ROOT / "experiments" / "table4.yaml", sets=sets)
    resources = experiment.variants[0].runs[0].resources
    assert (resources.threads_of("train"), resources.minutes_of("probe"), resources.minutes_of("train")) == (2, 7, 60)
    assert experiment.notes == (
        "resources.threads: {STAGE: VALUE} is now resources: {STAGE: {threads: VALUE}}; this version reads the former way, the next "
        "one will not",
    )
    both = [*sets, "resources.train.threads=3"]
    with pytest.raises(SpecError, match="resources.train.threads: is also given as threads.train, its former name"):
        load(ROOT / "experiments" / "table4.yaml", sets=both)


def test_a_record_of_before_is_read() -> None:
    """job.json and the experiments' records of older homes."""
    old = {
        "threads": {"train": 4},
        "processes": {"train": 2},
        "slurm": {"partition": "gpu", "setup": [], "options": {}, "timeouts": 20},
    }
    resources = ResourceSpec.model_validate(old)
    assert resources.slots_of("train") == 8 and resources.slurm_of("train").partition == "gpu"
    again = ResourceSpec.model_validate(resources.model_dump(mode="json"))
    assert again == resources and "probe" not in resources.model_dump()


MISTAKES = [
    (
        "resources.probe.processes=2",
        "resources.probe.processes: a job of probe is one process; several may share: encode, features, train,",
    ),
    (
        "resources.encode.nodes=2",
        "resources.encode.nodes: a job of encode runs on one machine; several may share: train",
    ),
    ("resources.trian.threads=2", "did you mean train?"),
    ("resources.train.thread=2", "did you mean threads?"),
    ("resources.train.slurm.partitoin=x", "did you mean partition?"),
    ("resources={threads: {train: 2}, minutes: 5}", "resources.minutes: unknown key"),
    ("resources.train.minutes=0", "resources.train.minutes: 0 is not legal; give a whole number from 1"),
    ("resources.threads={trian: 2}", "resources.trian: unknown key (did you mean train?)"),
]


@pytest.mark.parametrize("text, says", MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_is_told(text: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(ROOT / "experiments" / "table4.yaml", sets=[text])
    assert says in str(caught.value)


def test_a_dry_run_prints_the_scripts_and_writes_nothing(images: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    (home / "data" / "fashion-mnist").symlink_to(images)
    before = sorted(home.rglob("*"))
    given = [
        "run",
        ROOT / "tests" / "many.yaml",
        "--executor",
        "slurm",
        "--dry-run",
        "--set",
        "resources.dataset.slurm.partition=cpu",
    ]
    done = star_exp(*given, "--home", home)
    assert done.returncode == 0, done.stderr
    assert sorted(path for path in home.rglob("*") if "manifests" not in str(path)) == before
    heads = re.findall(r"^# (JOB\d+): (.*)$", done.stdout, re.MULTILINE)
    assert [jobs.partition(":")[0] for _, jobs in heads] == [
        "1 job",
        "1 job",
        "1 job",
        "1 job",
        "4 jobs",
        "4 jobs",
        "4 jobs",
        "4 jobs",
    ]
    assert "20 of 20 jobs; nothing was submitted" in done.stdout
    assert done.stdout.count("#SBATCH --partition=cpu") == 1 and done.stdout.count("#SBATCH --array=0-3%4") == 4
    assert len(re.findall(r"dependency=aftercorr:JOB\d", done.stdout)) == 3
    assert not done.stderr
    refused = star_exp("run", ROOT / "tests" / "many.yaml", "--dry-run", home=home)
    assert refused.returncode == 2 and "give --executor slurm" in refused.stderr


@pytest.mark.parametrize(
    "sets, told",
    [
        ([], []),
        (
            ["resources.gpu=H100", "optim.steps=1000000000000"],
            ["train of mask_ratio=0.1 · seed 0 is expected to take 38 h", "60 minutes, and 20 times more;"],
        ),
        (["resources.gpu=H100", "optim.steps=1000000000000", "resources.train={minutes: 200}"], []),
        (["resources.gpu=H100", "optim.steps=1000000000000", "resources.train={processes: 2}"], []),
        (
            [
                "resources.gpu=H100",
                "optim.steps=1000000000000",
                "resources.train={minutes: 1}",
                "resources.slurm={timeouts: 0}",
            ],
            ["gives it 1 minute; give"],
        ),
    ],
)
def test_a_job_that_wants_more_time_than_slurm_gives_is_told(sets: list[str], told: list[str], home: Path) -> None:
    plan = make_plan(load(ROOT / "tests" / "many.yaml", sets=sets), Home(home), None)
    found = beyond_limits(plan, History(()))
    assert len(found) == bool(told) and all(part in found[0] for part in told), found

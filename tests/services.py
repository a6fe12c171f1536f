"""Real servers for tests, on this machine and on free ports: PostgreSQL, Slurm, an MLflow server."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.helpers import empty_tracking_store


def free_port() -> int:
    """A port on which nothing listens, and that nobody is given before it is used."""
    while True:
        with socket.socket() as found, suppress(OSError):
            # outgoing connections are given those above 32767, Ray's workers those below 20000
            found.bind(("127.0.0.1", random.SystemRandom().randrange(20_000, 32_000)))
            return int(found.getsockname()[1])


def until(condition: Callable[[], bool], what: str, timeout: float = 300) -> None:
    """Wait."""
    deadline = time.time() + timeout
    while not condition():
        assert time.time() < deadline, f"{what}: nothing after {timeout:.0f} s"
        time.sleep(0.05)


class Postgres:
    """A PostgreSQL server of one's own, as its own user where the tests run as root (PostgreSQL refuses root)."""

    def __init__(self) -> None:
        # not in pytest's folder, which is its owner's alone
        self.folder = Path(tempfile.mkdtemp(prefix="star-postgres-"))
        self.data, self.port = self.folder / "data", free_port()
        self._as: list[str] = []
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres")
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._run(find_postgres("initdb"), "-D", self.data, "-A", "trust", "-U", "star", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\nfsync = off\n"
            )
        self.start()
        self.databases = 0

    def _run(self, *command: object) -> None:
        done = subprocess.run([*self._as, *map(str, command)], capture_output=True, text=True, timeout=200, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start the server; returns when it answers."""
        command = (find_postgres("pg_ctl"), "-D", self.data, "-l", self.folder / "log", "-w", "start")
        done = subprocess.run([*self._as, *map(str, command)], stdout=subprocess.DEVNULL, timeout=200, cwd="/")
        assert done.returncode == 0, (self.folder / "log").read_text()

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        self._run(find_postgres("pg_ctl"), "-D", self.data, "-m", "immediate", "-w", "stop")

    def remove(self) -> None:
        """Stop it for good."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_database(self) -> str:
        """The address of an empty database."""
        import psycopg

        self.databases += 1
        name = f"star_{os.getpid()}_{self.databases}"
        with psycopg.connect(f"postgresql://star@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return f"postgresql://star@127.0.0.1:{self.port}/{name}"


def find_postgres(program: str) -> str:
    """The path of one of PostgreSQL's programs; Debian keeps them off the PATH."""
    found = [*Path("/usr/lib/postgresql").glob(f"*/bin/{program}")]
    return str(found[-1]) if found else shutil.which(program) or ""


class Slurm:
    """A Slurm controller and `nodes` nodes, all on this machine: real daemons, started from Debian's packages.

    Its commands find it by SLURM_CONF. Memory is not watched (that wants cgroups); everything else is as on a cluster.
    """

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"
        folder.mkdir(parents=True)
        user = "root" if os.getuid() == 0 else os.environ["USER"]
        controller, ports = free_port(), [free_port() for _ in range(nodes)]
        self.nodes = [f"node{i}" for i in range(nodes)]
        lines = [
            "ClusterName=star",
            f"SlurmctldHost={socket.gethostname()}(127.0.0.1)",
            f"SlurmctldPort={controller}",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            "AuthType=auth/none",
            "CredType=cred/none",
            "AuthInfo=cred_expire=5",  # a requeued job waits so long; usually two minutes
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/spool-%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmdPidFile={folder}/slurmd-%n.pid",
            f"SlurmctldLogFile={folder}/slurmctld.log",
            f"SlurmdLogFile={folder}/slurmd-%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "SwitchType=switch/none",
            "MpiDefault=none",
            "ReturnToService=2",
            "JobRequeue=1",
            "KillWait=5",
            "MinJobAge=300",
            "SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,default_queue_depth=100",
            "InactiveLimit=0",
            "PriorityType=priority/basic",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            *(
                f"NodeName={name} NodeAddr=127.0.0.1 NodeHostname={socket.gethostname()} Port={port} CPUs=2 RealMemory=1000"
                for name, port in zip(self.nodes, ports, strict=True)
            ),
            "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5",
            "PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off",
        ]
        self.conf.write_text("\n".join(lines) + "\n")
        version = subprocess.run(["slurmctld", "-V"], check=True, capture_output=True, text=True).stdout.split()[-1]
        if tuple(map(int, version.split(".")[:2])) >= (24, 5):  # they want cgroups else, which a container may lack
            (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        (folder / "state").mkdir()
        self._started: list[subprocess.Popen[bytes]] = []
        self._spawn("slurmctld", "-D", "-f", self.conf)
        for name in self.nodes:
            (folder / f"spool-{name}").mkdir()
            self._spawn("slurmd", "-D", "-f", self.conf, "-N", name)
        until(lambda: self("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(nodes), "Slurm's nodes come up")

    def _spawn(self, *command: object) -> None:
        output = (self.folder / "output.txt").open("ab")
        self._started.append(subprocess.Popen([*map(str, command)], stdout=output, stderr=output))

    def __call__(self, *command: object) -> str:
        """Run one of Slurm's commands; returns what it prints."""
        environment = os.environ | {"SLURM_CONF": str(self.conf)}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=200, env=environment)
        return done.stdout if done.returncode == 0 else ""

    def state(self, job: object) -> str:
        """Slurm's word for a job's state."""
        shown = self("scontrol", "show", "job", job)
        return shown.partition("JobState=")[2].split()[0] if shown else ""

    def stop(self) -> None:
        """End all jobs and daemons."""
        self(
            "scancel",
            "--quiet",
            "--signal=KILL",
            "--full",
            "--state=RUNNING",
            "-u",
            "root" if os.getuid() == 0 else os.environ["USER"],
        )
        self("scancel", "--quiet", "-u", "root" if os.getuid() == 0 else os.environ["USER"])
        until(lambda: not self("squeue", "-h").strip(), "Slurm's jobs end")
        for process in reversed(self._started):
            process.terminate()
        for process in self._started:
            process.wait(timeout=200)


class RayCluster:
    """Two nodes of Ray on this machine, reached with a token."""

    def __init__(self, cpus: tuple[int, ...] = (2, 2)) -> None:
        self.port = free_port()
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ADDRESS": f"127.0.0.1:{self.port}",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        first = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        for count, options in zip(
            cpus, (first, *[[f"--address=127.0.0.1:{self.port}"]] * (len(cpus) - 1)), strict=True
        ):
            self._spawn(*options, f"--num-cpus={count}", "--node-ip-address=127.0.0.1", "--block")
            if options is first:
                until(self._answers, "Ray's head comes up")

    def _spawn(self, *options: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--disable-usage-stats"]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RAY_")
        } | self.environment
        environment |= {"PYTHONPATH": str(Path(__file__).parent.parent)}  # for workers that only pretend
        environment.pop("RAY_ADDRESS")
        self._started.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        )

    def _answers(self) -> bool:
        with socket.socket() as asked:
            return asked.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End both nodes."""
        for process in reversed(self._started):
            process.terminate()
        for process in self._started:
            process.wait(timeout=200)


class MlflowServer:
    """An MLflow tracking server on a database that outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True)
        shutil.copy(empty_tracking_store(), folder / "mlflow.sqlite")
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it; returns when it answers."""
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.sqlite"]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), *store]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # ten processes that nobody asks
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
        )
        try:
            until(self._answers, "the MLflow server comes up")
        except AssertionError:
            self.stop()
            raise

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """Kill it, as a machine that goes down would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=200)

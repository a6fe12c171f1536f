"""The ledger's tables, as the newest migration leaves them."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("key", String(16), primary_key=True),
    Column("stage", String(32), nullable=False),
    Column("label", Text, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("attempt", Integer, nullable=False, default=0),
    Column("flops", Float, nullable=False),
    Column("handle", JSON),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("finished", Float),
    Column("error_class", String(64)),
    Column("error", Text),
    Column("why", String(32)),
    Column("owner", String(32)),
    Column("executor", String(255)),
    Column("host", String(255)),
    Column("slots", Integer, nullable=False, server_default="0"),
    Column("gpus", JSON),
    Column("not_before", Float),
    Column("wish", String(16)),
    Column("content", JSON),
)
"""`content` is what the key was made of. It serves `why` and `diff`, and is not loaded with the other columns."""

runs = Table(
    "runs",
    metadata,
    Column("key", String(16), primary_key=True),
    Column("label", Text, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("stages", JSON, nullable=False),
    Column("tracking_id", String(64)),
    Column("created", Float, nullable=False),
)

experiments = Table(
    "experiments",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("profile", String(128), primary_key=True),
    Column("row", Text, primary_key=True),
    Column("seed", Integer, primary_key=True),
    Column("run", String(16), nullable=False),
    Column("targets", JSON, nullable=False),
    Column("place", Integer, nullable=False),
)

history = Table(
    "history",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("job", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("before", String(16)),
    Column("after", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("why", String(32)),
    Column("owner", String(32)),
    Column("token", String(32)),
    Index("ix_history_job", "job"),
    Index("uq_history_token", "token", unique=True),
)
"""Every transition, kept for ever: triggers refuse to change or delete one. By `token` a scheduler whose connection
broke during a commit can tell whether the commit has happened.
"""

tracked = Table(
    "tracked",
    metadata,
    Column("run", String(16), primary_key=True),
    Column("job", String(16), primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
)
"""How much of a job's metrics a run's tracker holds."""

schedulers = Table(
    "schedulers",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("born", String(80), nullable=False),
    Column("executor", String(255), nullable=False),
    Column("command", Text, nullable=False),
    Column("beats", Integer, nullable=False),
    Column("seen", Float, nullable=False),
)

facts = Table("facts", metadata, Column("name", String(32), primary_key=True), Column("value", Text, nullable=False))
"""Facts about the ledger itself, such as the home that it belongs to."""

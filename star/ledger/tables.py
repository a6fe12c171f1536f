"""The ledger's tables."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, Integer, MetaData, String, Table, Text

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
)

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
    Column("job", String(16), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("before", String(16)),
    Column("after", String(16), nullable=False),
    Column("reason", Text, nullable=False),
)

tracked = Table(
    "tracked",
    metadata,
    Column("run", String(16), primary_key=True),
    Column("job", String(16), primary_key=True),
    Column("offset", Integer, nullable=False),
    Column("complete", Boolean, nullable=False),
)
"""How much of a job's metrics a run's tracker holds."""

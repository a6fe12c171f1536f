"""Leases: who watches a job, what it holds of which machine, when it may start again; a history nobody can change."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

SQLITE = """
create trigger history_keeps_{what} before {what} on history
begin select raise(abort, 'the history is append-only'); end
"""
POSTGRES = (
    """
create function history_is_kept() returns trigger language plpgsql as
$$ begin raise exception 'the history is append-only'; end $$
""",
    "create trigger history_is_kept before update or delete on history for each row execute function history_is_kept()",
)


def upgrade() -> None:
    """New columns and tables; nothing that is there changes."""
    for column in (
        sa.Column("why", sa.String(32)),
        sa.Column("owner", sa.String(32)),
        sa.Column("host", sa.String(255)),
        sa.Column("slots", sa.Integer, nullable=False, server_default="0"),
        sa.Column("gpus", sa.JSON),
        sa.Column("not_before", sa.Float),
        sa.Column("wish", sa.String(16)),
        sa.Column("content", sa.JSON),
    ):
        op.add_column("jobs", column)
    for column in (
        sa.Column("why", sa.String(32)),
        sa.Column("owner", sa.String(32)),
        sa.Column("token", sa.String(32)),
    ):
        op.add_column("history", column)
    op.create_index("uq_history_token", "history", ["token"], unique=True)
    op.create_table(
        "schedulers",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("born", sa.String(80), nullable=False),
        sa.Column("executor", sa.String(16), nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("beats", sa.Integer, nullable=False),
        sa.Column("seen", sa.Float, nullable=False),
    )
    op.create_table(
        "facts", sa.Column("name", sa.String(32), primary_key=True), sa.Column("value", sa.Text, nullable=False)
    )
    if op.get_bind().dialect.name == "sqlite":
        for what in ("update", "delete"):
            op.execute(SQLITE.format(what=what))
    else:
        for statement in POSTGRES:
            op.execute(statement)

"""Where a job runs: the executor beside the machine, in place of `@executor` as a machine's name."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Each job that was started keeps its place, said in two columns; an executor of one's own may have a long name."""
    with op.batch_alter_table("schedulers") as table:
        table.alter_column("executor", type_=sa.String(255), existing_type=sa.String(16), existing_nullable=False)
    op.add_column("jobs", sa.Column("executor", sa.String(255)))
    jobs = sa.table("jobs", *(sa.column(name, sa.String) for name in ("executor", "host", "owner")))
    moved = sa.update(jobs).where(jobs.c.host.like("@%")).values(executor=sa.func.substr(jobs.c.host, 2), host=None)
    op.execute(moved)
    op.execute(sa.update(jobs).where(jobs.c.host.is_not(None)).values(executor="local"))
    schedulers = sa.table("schedulers", sa.column("id", sa.String), sa.column("executor", sa.String))
    own = sa.select(schedulers.c.executor).where(schedulers.c.id == jobs.c.owner).scalar_subquery()
    known = jobs.c.executor.is_not(None) & sa.exists().where(schedulers.c.id == jobs.c.owner)
    op.execute(sa.update(jobs).where(known).values(executor=own))  # as the scheduler says that watches it

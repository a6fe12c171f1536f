"""A database of another program is no ledger, on every kind of server."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from star.errors import LedgerError
from star.ledger.database import Database
from star.ledger.migrate import check, migrate


@pytest.mark.parametrize(
    "theirs", ["create table jobs (id integer)", "create table alembic_version (version_num text)"]
)
def test_another_programs_database_is_left_alone(database: str, theirs: str) -> None:
    other = Database(database)
    with other.transaction() as connection:
        connection.execute(text(theirs))
        if "alembic" in theirs:
            connection.execute(text("insert into alembic_version values ('0001')"))
    for use in (check, migrate):
        with pytest.raises(LedgerError, match="holds another program's tables"):
            use(other)
    with other.transaction() as connection:
        assert len(other.engine.dialect.get_table_names(connection)) == 1

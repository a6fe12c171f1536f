"""Alembic asks here how to reach the database: by the connection, and in the transaction, that `migrate` gives it."""

from alembic import context

from star.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=False)
context.run_migrations()

"""Alembic's environment: migrate.py gives the connection."""

from alembic import context

from tasks.reports.migrate import VERSIONS
from tasks.reports.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSIONS,
    transactional_ddl=True,
    render_as_batch=True,  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()

"""The first tables: reports, sessions, history, orders."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "report_schedules",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("shop", sa.String(90), nullable=False, index=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("cron", sa.String(100), nullable=False),
        sa.Column("tz", sa.String(64), nullable=False),
        sa.Column("next_run_at", _INSTANT),
        sa.Column("recipients", sa.JSON, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("own_schedule", sa.Boolean, nullable=False),
        sa.Column("changed_at", _INSTANT, nullable=False, index=True),
    )
    op.create_index("report_schedules_due", "report_schedules", ["active", "next_run_at"])
    op.create_table(
        "report_sessions",
        sa.Column("shop", sa.String(90), primary_key=True),
        sa.Column("token", sa.LargeBinary, nullable=False),
        sa.Column("changed_at", _INSTANT, nullable=False),
    )
    op.create_table(
        "report_history",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "report_id",
            sa.Integer,
            sa.ForeignKey("report_schedules.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("shop", sa.String(90), nullable=False, index=True),
        sa.Column("fire_time", _INSTANT, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("began_at", _INSTANT, nullable=False),
        sa.Column("ended_at", _INSTANT),
        sa.Column("rows", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("changed_at", _INSTANT, nullable=False, index=True),
        sa.UniqueConstraint("report_id", "fire_time"),
    )
    op.create_table(
        "report_orders",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("shop", sa.String(90), nullable=False),
        sa.Column("ordered_at", _INSTANT, nullable=False),
        sa.Column("product", sa.String(100), nullable=False),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.Column("cents", sa.Integer, nullable=False),
    )
    op.create_index("report_orders_of_shop", "report_orders", ["shop", "ordered_at"])


def downgrade() -> None:
    """Remove the tables with all that they hold."""
    for table in ("report_orders", "report_history", "report_sessions", "report_schedules"):
        op.drop_table(table)

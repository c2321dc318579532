"""Accepted batches whose final reports are still awaited: when the provider is asked about them next."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    CREATE TABLE refreshes (
        batch_id uuid PRIMARY KEY REFERENCES batches ON DELETE CASCADE,
        accepted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        round integer NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        after_phone bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02)
    """,
    "CREATE INDEX refreshes_due ON refreshes (due_at)",
    "COMMENT ON INDEX refreshes_due IS 'refresh worker: the batches to be asked about next'",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)

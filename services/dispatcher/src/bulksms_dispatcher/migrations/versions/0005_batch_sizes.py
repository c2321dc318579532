"""The batch size in force per traffic account, where it follows the provider (SMS_BATCH_SIZE=auto)."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE batch_sizes (
            traffic_account_id text PRIMARY KEY,
            size integer NOT NULL CHECK (size > 0),
            updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
        ) WITH (fillfactor = 50)
    """)

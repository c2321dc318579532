"""The outbox remembers who took an entry, so that a round that broke off is repeated at once."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE outbox ADD COLUMN holder text NOT NULL DEFAULT ''")

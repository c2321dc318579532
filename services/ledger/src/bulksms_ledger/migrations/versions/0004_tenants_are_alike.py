"""Tenants are alike: plans do not depend on which tenants there were when statistics were last gathered."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Of a tenant that the statistics do not know PostgreSQL expects one row, whatever index finds it: a capture then read
# all of the tenant's reservations to find one by its key. Without statistics it expects a 200th of the table. Naming
# the type again forgets what had been gathered; it builds the table's partial indexes anew.
FORGET_TENANTS = """
ALTER TABLE reservations
    ALTER COLUMN tenant_id SET STATISTICS 0,
    ALTER COLUMN tenant_id TYPE text COLLATE "C"
"""


def upgrade() -> None:
    """Gather no statistics of the reservations' tenants."""
    op.execute(FORGET_TENANTS)


def downgrade() -> None:
    """Refused, as all of the ledger's."""
    raise NotImplementedError("restore the database from a backup instead: dropping the ledger loses credits")

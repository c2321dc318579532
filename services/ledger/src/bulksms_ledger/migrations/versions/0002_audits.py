"""Audits: how far each account's entries have been audited, and what did not hold."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A row per account from its opening on. Auditors of all replicas share it: whoever holds the row audits the account.
AUDITS = """
CREATE TABLE audits (
    tenant_id text COLLATE "C" PRIMARY KEY REFERENCES accounts,
    newest_version bigint NOT NULL DEFAULT 0,
    patrol_version bigint NOT NULL DEFAULT 0,
    audited_at timestamptz NOT NULL DEFAULT '-infinity',
    differences text[] NOT NULL DEFAULT '{}',
    found_at timestamptz,
    abandoned uuid[] NOT NULL DEFAULT '{}',
    CONSTRAINT audits_found_has_time CHECK ((differences = '{}') = (found_at IS NULL))
) WITH (fillfactor = 70)
"""

OPEN_AN_AUDIT = """
CREATE FUNCTION open_an_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audits (tenant_id) VALUES (NEW.tenant_id);
    RETURN NULL;
END
$$
"""

INDEXES = (
    ("CREATE INDEX audits_due ON audits (audited_at)", "audits_due", "Auditor: the account not looked at for longest"),
    ("CREATE INDEX audits_found ON audits (tenant_id) WHERE found_at IS NOT NULL", "audits_found",
     "Auditor: whether anything differs anywhere"),
)  # fmt: skip


def upgrade() -> None:
    """Create the table, and a row for every account there is."""
    op.execute(AUDITS)
    for statement, name, query in INDEXES:
        op.execute(statement)
        op.execute(f"COMMENT ON INDEX {name} IS '{query}'")
    op.execute("INSERT INTO audits (tenant_id) SELECT tenant_id FROM accounts")
    op.execute(OPEN_AN_AUDIT)
    op.execute("CREATE TRIGGER open_an_audit AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION open_an_audit()")


def downgrade() -> None:
    """Refused, as all of the ledger's."""
    raise NotImplementedError("restore the database from a backup instead: dropping the ledger loses credits")

"""Kept sizes of composed audiences, and versions of contact lists that say whether a kept size still holds."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATEMENTS = (
    # Grows with every change of a list's size. By a trigger: replicas of the release before, which know of no version,
    # move the counts during a rolling deploy as well.
    "ALTER TABLE contact_counts ADD COLUMN version bigint NOT NULL DEFAULT 1",
    """
    CREATE FUNCTION advance_contact_counts() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.version := OLD.version + 1;
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER advance BEFORE UPDATE ON contact_counts
    FOR EACH ROW EXECUTE FUNCTION advance_contact_counts()
    """,
    # Contacts in one of `groups` and in none of `exclude_groups`. Holds while `version` is the sum of those lists'
    # versions, which -1 never is, and `since` is unset; else the numbers are the difference since that version.
    """
    CREATE TABLE audience_sizes (
        tenant_id text COLLATE "C" NOT NULL,
        audience_id uuid NOT NULL,
        groups text[] NOT NULL,
        exclude_groups text[] NOT NULL,
        reachable bigint NOT NULL DEFAULT 0,
        opted_out bigint NOT NULL DEFAULT 0,
        version bigint NOT NULL DEFAULT -1,
        since bigint,
        used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant_id, audience_id),
        CHECK (since IS NOT NULL OR (reachable >= 0 AND opted_out >= 0))
    ) WITH (fillfactor = 50)
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE audience_sizes")
    op.execute("DROP TRIGGER advance ON contact_counts")
    op.execute("DROP FUNCTION advance_contact_counts()")
    op.execute("ALTER TABLE contact_counts DROP COLUMN version")

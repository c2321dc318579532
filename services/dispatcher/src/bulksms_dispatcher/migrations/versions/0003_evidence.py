"""Evidence for ambiguous batches, an operator's word with its author, captures that came too late, swept messages."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Recipients that evidence has named. On the row itself: whoever waits for its lock sees it when the lock is his.
    "ALTER TABLE batches ADD COLUMN evidenced integer NOT NULL DEFAULT 0",
    """
    CREATE TABLE evidence (
        provider_message_id text PRIMARY KEY,
        raw_status text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        state smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 3),
        tries integer NOT NULL DEFAULT 0,
        next_try timestamptz NOT NULL DEFAULT clock_timestamp(),
        reason text NOT NULL DEFAULT '',
        sighted_phone bigint,
        sighted_texts bytea[],
        sighted_sender text,
        sighted_at timestamptz,
        batch_id uuid REFERENCES batches,
        position integer,
        CHECK ((state = 2) = (batch_id IS NOT NULL AND position IS NOT NULL))
    )
    """,
    "CREATE INDEX evidence_open ON evidence (next_try) WHERE state = 1",
    "COMMENT ON INDEX evidence_open IS 'evidence worker: which reports are to be looked into next'",
    "CREATE INDEX evidence_sighted ON evidence (sighted_phone) WHERE state = 1 AND sighted_phone IS NOT NULL",
    "COMMENT ON INDEX evidence_sighted IS 'evidence: reports that cannot be told apart'",
    "CREATE UNIQUE INDEX evidence_recipient ON evidence (batch_id, position) WHERE state = 2",
    "COMMENT ON INDEX evidence_recipient IS 'one message id for each recipient of a batch; ids of a batch in order'",
    """
    CREATE INDEX batches_without_ids ON batches (updated_at)
        WHERE state IN (6, 7) OR (state IN (4, 5) AND reason = 'OPERATOR')
    """,
    "COMMENT ON INDEX batches_without_ids IS 'evidence: batches whose message ids nobody knows'",
    "CREATE INDEX answers_received ON answers (received_at)",
    "COMMENT ON INDEX answers_received IS 'evidence: does an accepted batch have this id? and retention'",
    # Entries about some recipients of a batch only: several of them, each with its own message ids.
    "ALTER TABLE outbox ADD COLUMN part integer NOT NULL DEFAULT 0",
    "ALTER TABLE outbox ADD COLUMN message_ids bytea",
    "ALTER TABLE outbox DROP CONSTRAINT outbox_batch_id_epoch_state_kind_key",
    "ALTER TABLE outbox ADD UNIQUE (batch_id, epoch, state, kind, part)",
    """
    CREATE TABLE uncaptured (
        batch_id uuid NOT NULL REFERENCES batches,
        epoch bigint NOT NULL,
        part integer NOT NULL,
        units integer NOT NULL,
        reason text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (batch_id, epoch, part)
    )
    """,
    """
    CREATE INDEX messages_unsettled ON messages (created_at) WHERE status = 1 OR reason = 'INTERRUPTED_UNSETTLED'
    """,
    "COMMENT ON INDEX messages_unsettled IS 'sweeper: messages whose caller died before they were queued'",
    "ALTER TABLE operations ADD COLUMN operator text NOT NULL DEFAULT ''",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)

"""Submissions, batches (the queue), attempts, answers, outbox, single messages, suppressions, limits."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE campaigns (
        campaign_id uuid PRIMARY KEY,
        tenant_id text NOT NULL,
        paused boolean NOT NULL DEFAULT false,
        cancelled boolean NOT NULL DEFAULT false,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE TABLE submissions (
        submission_id uuid PRIMARY KEY,
        tenant_id text NOT NULL,
        campaign_id uuid NOT NULL,
        enqueue_number integer NOT NULL,
        reservation_id uuid NOT NULL,
        text text NOT NULL,
        variable_names text[] NOT NULL,
        sender text NOT NULL,
        priority smallint NOT NULL,
        traceparent text NOT NULL,
        fingerprint bytea NOT NULL,
        next_index bigint NOT NULL DEFAULT 0,
        last_phone bigint NOT NULL DEFAULT 0,
        batches integer NOT NULL DEFAULT 0,
        complete boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX submissions_campaign ON submissions (campaign_id)",
    "COMMENT ON INDEX submissions_campaign IS 'cancel: recipients stored for a campaign in all its submissions'",
    """
    CREATE TABLE batches (
        seq bigint GENERATED ALWAYS AS IDENTITY,
        batch_id uuid PRIMARY KEY,
        tenant_id text NOT NULL,
        campaign_id uuid NOT NULL,
        submission_id uuid NOT NULL REFERENCES submissions,
        number integer NOT NULL,
        recipients integer NOT NULL CHECK (recipients > 0),
        first_phone bigint NOT NULL,
        last_phone bigint NOT NULL CHECK (last_phone >= first_phone),
        packed bytea NOT NULL,
        left_out bytea,
        state smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 9),
        priority smallint NOT NULL,
        not_before timestamptz NOT NULL DEFAULT clock_timestamp(),
        lease_until timestamptz,
        worker text NOT NULL DEFAULT '',
        epoch bigint NOT NULL DEFAULT 0,
        attempts integer NOT NULL DEFAULT 0,
        retries integer NOT NULL DEFAULT 0,
        bulk_id text NOT NULL DEFAULT '',
        reason text NOT NULL DEFAULT '',
        traceparent text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        UNIQUE (submission_id, number),
        CHECK ((state IN (2, 3)) = (lease_until IS NOT NULL))
    ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02)
    """,
    # Packed already: compressing it again costs time and gains nothing; out of line, it is not rewritten by updates.
    "ALTER TABLE batches ALTER COLUMN packed SET STORAGE EXTERNAL",
    "CREATE UNIQUE INDEX batches_seq ON batches (seq)",
    "COMMENT ON INDEX batches_seq IS 'ListBatches without a filter'",
    """
    CREATE INDEX batches_claim ON batches (priority, tenant_id, campaign_id, not_before, seq) WHERE state = 1
    """,
    "COMMENT ON INDEX batches_claim IS 'claims: which lanes have READY batches, and the next one of a lane'",
    "CREATE INDEX batches_lease ON batches (lease_until) WHERE state IN (2, 3)",
    "COMMENT ON INDEX batches_lease IS 'reaper: leases that ran out'",
    "CREATE INDEX batches_ambiguous ON batches (updated_at) WHERE state = 6",
    "COMMENT ON INDEX batches_ambiguous IS 'reaper: ambiguous past the horizon'",
    """
    CREATE INDEX batches_live ON batches (state, priority, tenant_id) INCLUDE (recipients, not_before)
        WHERE state IN (1, 2, 3, 6, 9)
    """,
    "COMMENT ON INDEX batches_live IS 'GetQueueStats and the backlog limit, without reading rows'",
    "CREATE INDEX batches_dead ON batches (seq) WHERE state = 9",
    "COMMENT ON INDEX batches_dead IS 'ListDeadBatches'",
    "CREATE INDEX batches_campaign ON batches (campaign_id, seq)",
    "COMMENT ON INDEX batches_campaign IS 'pause, cancel, ListBatches of a campaign'",
    "CREATE INDEX batches_tenant ON batches (tenant_id, seq)",
    "COMMENT ON INDEX batches_tenant IS 'ListBatches of a tenant'",
    """
    CREATE TABLE attempts (
        batch_id uuid NOT NULL REFERENCES batches,
        number integer NOT NULL,
        epoch bigint NOT NULL,
        worker text NOT NULL,
        armed_at timestamptz,
        ended_at timestamptz,
        outcome text NOT NULL DEFAULT '',
        reason text NOT NULL DEFAULT '',
        http_status integer NOT NULL DEFAULT 0,
        accepted integer NOT NULL DEFAULT 0,
        PRIMARY KEY (batch_id, number)
    )
    """,
    "CREATE INDEX attempts_accepted ON attempts (ended_at) INCLUDE (accepted) WHERE accepted > 0",
    "COMMENT ON INDEX attempts_accepted IS 'GetQueueStats: messages accepted in the last minute'",
    """
    CREATE TABLE answers (
        batch_id uuid NOT NULL REFERENCES batches,
        epoch bigint NOT NULL,
        http_status integer NOT NULL,
        bulk_id text,
        first_message_id text,
        message_ids bytea,
        body bytea,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (batch_id, epoch)
    )
    """,
    # Random base32 does not compress.
    "ALTER TABLE answers ALTER COLUMN message_ids SET STORAGE EXTERNAL",
    "CREATE UNIQUE INDEX answers_bulk_id ON answers (bulk_id)",
    "COMMENT ON INDEX answers_bulk_id IS 'record: an answer that was given to another batch before proves a mix-up'",
    "CREATE UNIQUE INDEX answers_first_message_id ON answers (first_message_id)",
    "COMMENT ON INDEX answers_first_message_id IS 'record: as answers_bulk_id, for answers without a bulk id'",
    """
    CREATE TABLE outbox (
        outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind smallint NOT NULL,
        batch_id uuid NOT NULL REFERENCES batches,
        epoch bigint NOT NULL,
        state smallint NOT NULL,
        groups bytea,
        accepted integer NOT NULL DEFAULT 0,
        parts integer NOT NULL DEFAULT 0,
        next_try timestamptz NOT NULL DEFAULT clock_timestamp(),
        tries integer NOT NULL DEFAULT 0,
        refused text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        UNIQUE (batch_id, epoch, state, kind)
    ) WITH (autovacuum_vacuum_scale_factor = 0.02)
    """,
    "CREATE INDEX outbox_due ON outbox (kind, next_try, outbox_id)",
    "COMMENT ON INDEX outbox_due IS 'outbox workers: what is to be told next'",
    """
    CREATE TABLE messages (
        message_id uuid PRIMARY KEY,
        tenant_id text NOT NULL,
        phone bigint NOT NULL,
        sender text NOT NULL,
        fingerprint bytea NOT NULL,
        status smallint NOT NULL DEFAULT 1,
        reason text NOT NULL DEFAULT '',
        description text NOT NULL DEFAULT '',
        provider_message_id text,
        parts integer NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE UNIQUE INDEX messages_provider_id ON messages (provider_message_id)",
    "COMMENT ON INDEX messages_provider_id IS 'delivery reports of single messages'",
    "CREATE INDEX messages_tenant ON messages (tenant_id, created_at, message_id)",
    "COMMENT ON INDEX messages_tenant IS 'ListMessages'",
    """
    CREATE TABLE suppressions (
        tenant_id text NOT NULL,
        phone bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant_id, phone)
    )
    """,
    """
    CREATE TABLE suppression_versions (
        tenant_id text PRIMARY KEY,
        version bigint NOT NULL
    )
    """,
    """
    CREATE TABLE workers (
        worker text PRIMARY KEY,
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE TABLE rate_limits (
        scope smallint NOT NULL,
        key text NOT NULL,
        max_requests bigint NOT NULL,
        max_messages bigint NOT NULL,
        window_ms bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (scope, key)
    )
    """,
    """
    CREATE TABLE operations (
        request_id uuid PRIMARY KEY,
        kind text NOT NULL,
        batch_id uuid NOT NULL REFERENCES batches,
        reason text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)

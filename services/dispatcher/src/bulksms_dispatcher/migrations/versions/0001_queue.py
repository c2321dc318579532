"""Batches (the queue) and what hangs on them, outbox, evidence, single messages, opt-outs, limits."""

from alembic import op

from bulksms_dispatcher.domain.evidence import EvidenceState
from bulksms_dispatcher.domain.messages import MessageStatus
from bulksms_dispatcher.domain.protocol import LIVE, BatchState
from bulksms_dispatcher.domain.results import OPERATOR
from bulksms_dispatcher.storage.messages import CREDIT_RESERVED

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_LEASED = f"{BatchState.LEASED}, {BatchState.ARMED}"
_ATTEMPTED = f"{BatchState.ARMED}, {BatchState.ACCEPTED}, {BatchState.AMBIGUOUS}, {BatchState.UNRESOLVED}"
_LIVE = ", ".join(str(int(state)) for state in sorted(LIVE))

# The tenant is in every key; it comes second, so that what an operator or a journal names by an id alone is found, too.
STATEMENTS = (
    """
    CREATE TABLE campaigns (
        campaign_id uuid NOT NULL,
        tenant_id text NOT NULL,
        paused boolean NOT NULL DEFAULT false,
        cancelled boolean NOT NULL DEFAULT false,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (campaign_id, tenant_id)
    )
    """,
    """
    CREATE TABLE submissions (
        submission_id uuid NOT NULL,
        tenant_id text NOT NULL,
        campaign_id uuid NOT NULL,
        enqueue_number integer NOT NULL,
        reservation_id uuid NOT NULL,
        -- Who stands at which position: the ledger authorizes positions of this snapshot and of no other.
        snapshot_digest bytea NOT NULL,
        text text NOT NULL,
        variable_names text[] NOT NULL,
        sender text NOT NULL,
        priority smallint NOT NULL,
        message_class smallint NOT NULL,
        traceparent text NOT NULL,
        fingerprint bytea NOT NULL,
        next_index bigint NOT NULL DEFAULT 0,
        last_phone bigint NOT NULL DEFAULT 0,
        batches integer NOT NULL DEFAULT 0,
        complete boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (submission_id, tenant_id)
    )
    """,
    "CREATE INDEX submissions_campaign ON submissions (campaign_id, tenant_id)",
    "COMMENT ON INDEX submissions_campaign IS 'cancel: recipients stored for a campaign in all its submissions'",
    f"""
    CREATE TABLE batches (
        seq bigint GENERATED ALWAYS AS IDENTITY,
        batch_id uuid NOT NULL,
        tenant_id text NOT NULL,
        campaign_id uuid NOT NULL,
        submission_id uuid NOT NULL,
        number integer NOT NULL,
        recipients integer NOT NULL CHECK (recipients > 0),
        first_phone bigint NOT NULL,
        last_phone bigint NOT NULL CHECK (last_phone >= first_phone),
        packed bytea NOT NULL,
        opted_out_positions bytea,
        state smallint NOT NULL DEFAULT {BatchState.READY}
            CHECK (state BETWEEN {min(BatchState)} AND {max(BatchState)}),
        priority smallint NOT NULL,
        not_before timestamptz NOT NULL DEFAULT clock_timestamp(),
        -- Not armed any more from then on.
        not_after timestamptz,
        lease_until timestamptz,
        worker text NOT NULL DEFAULT '',
        epoch bigint NOT NULL DEFAULT 0,
        -- Of the attempt that armed it last: who was not that attempt changes nothing while it is armed.
        attempt_id uuid,
        attempts integer NOT NULL DEFAULT 0,
        retries integer NOT NULL DEFAULT 0,
        -- Recipients that evidence has named; on the row itself, so that whoever has waited for its lock sees it.
        evidenced integer NOT NULL DEFAULT 0,
        bulk_id text NOT NULL DEFAULT '',
        reason text NOT NULL DEFAULT '',
        traceparent text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (batch_id, tenant_id),
        UNIQUE (submission_id, tenant_id, number),
        FOREIGN KEY (submission_id, tenant_id) REFERENCES submissions,
        CHECK ((state IN ({_LEASED})) = (lease_until IS NOT NULL)),
        CHECK (state NOT IN ({_ATTEMPTED}) OR attempt_id IS NOT NULL)
    ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02)
    """,
    # Packed already: compressing it again costs time and gains nothing; out of line, it is not rewritten by updates.
    "ALTER TABLE batches ALTER COLUMN packed SET STORAGE EXTERNAL",
    "CREATE INDEX batches_seq ON batches (seq)",
    "COMMENT ON INDEX batches_seq IS 'ListBatches without a filter'",
    f"""
    CREATE INDEX batches_claim ON batches (priority, tenant_id, campaign_id, not_before, seq)
        WHERE state = {BatchState.READY}
    """,
    "COMMENT ON INDEX batches_claim IS 'claims: which lanes have READY batches, and the next one of a lane'",
    f"CREATE INDEX batches_late ON batches (not_after) WHERE state = {BatchState.READY} AND not_after IS NOT NULL",
    "COMMENT ON INDEX batches_late IS 'late batches: READY ones whose time is over'",
    f"CREATE INDEX batches_lease ON batches (lease_until) WHERE state IN ({_LEASED})",
    "COMMENT ON INDEX batches_lease IS 'reaper: leases that ran out'",
    f"CREATE INDEX batches_ambiguous ON batches (updated_at) WHERE state = {BatchState.AMBIGUOUS}",
    "COMMENT ON INDEX batches_ambiguous IS 'reaper: ambiguous past the horizon'",
    f"""
    CREATE INDEX batches_live ON batches (state, priority, tenant_id) INCLUDE (recipients, not_before)
        WHERE state IN ({_LIVE})
    """,
    "COMMENT ON INDEX batches_live IS 'GetQueueStats and the backlog limit, without reading rows'",
    f"CREATE INDEX batches_dead ON batches (seq) WHERE state = {BatchState.DEAD}",
    "COMMENT ON INDEX batches_dead IS 'ListDeadBatches'",
    "CREATE INDEX batches_campaign ON batches (campaign_id, tenant_id, seq)",
    "COMMENT ON INDEX batches_campaign IS 'pause, cancel, ListBatches of a campaign'",
    "CREATE INDEX batches_tenant ON batches (tenant_id, seq)",
    "COMMENT ON INDEX batches_tenant IS 'ListBatches of a tenant'",
    f"""
    CREATE INDEX batches_without_ids ON batches (updated_at)
        WHERE state IN ({BatchState.AMBIGUOUS}, {BatchState.UNRESOLVED})
           OR (state IN ({BatchState.ACCEPTED}, {BatchState.REJECTED}) AND reason = '{OPERATOR}')
    """,
    "COMMENT ON INDEX batches_without_ids IS 'evidence: batches whose message ids nobody knows'",
    """
    CREATE TABLE attempts (
        batch_id uuid NOT NULL,
        tenant_id text NOT NULL,
        number integer NOT NULL,
        epoch bigint NOT NULL,
        attempt_id uuid,
        worker text NOT NULL,
        armed_at timestamptz,
        ended_at timestamptz,
        outcome text NOT NULL DEFAULT '',
        reason text NOT NULL DEFAULT '',
        http_status integer NOT NULL DEFAULT 0,
        accepted integer NOT NULL DEFAULT 0,
        PRIMARY KEY (batch_id, tenant_id, number),
        FOREIGN KEY (batch_id, tenant_id) REFERENCES batches
    )
    """,
    "CREATE INDEX attempts_accepted ON attempts (ended_at) INCLUDE (accepted) WHERE accepted > 0",
    "COMMENT ON INDEX attempts_accepted IS 'GetQueueStats: messages accepted in the last minute'",
    """
    CREATE TABLE provider_responses (
        batch_id uuid NOT NULL,
        tenant_id text NOT NULL,
        epoch bigint NOT NULL,
        http_status integer NOT NULL,
        bulk_id text,
        first_message_id text,
        message_ids bytea,
        body bytea,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (batch_id, tenant_id, epoch),
        FOREIGN KEY (batch_id, tenant_id) REFERENCES batches
    )
    """,
    # Random base32 does not compress.
    "ALTER TABLE provider_responses ALTER COLUMN message_ids SET STORAGE EXTERNAL",
    "CREATE UNIQUE INDEX provider_responses_bulk_id ON provider_responses (bulk_id)",
    """
    COMMENT ON INDEX provider_responses_bulk_id IS
        'record: a response that was given to another batch before, of whatever tenant, proves a mix-up'
    """,
    "CREATE UNIQUE INDEX provider_responses_first_message_id ON provider_responses (first_message_id)",
    """
    COMMENT ON INDEX provider_responses_first_message_id IS
        'record: as provider_responses_bulk_id, for responses without a bulk id'
    """,
    "CREATE INDEX provider_responses_received ON provider_responses (received_at)",
    "COMMENT ON INDEX provider_responses_received IS 'evidence: does an accepted batch have this id? and retention'",
    """
    CREATE TABLE outbox (
        outbox_id bigint GENERATED ALWAYS AS IDENTITY,
        kind smallint NOT NULL,
        batch_id uuid NOT NULL,
        tenant_id text NOT NULL,
        epoch bigint NOT NULL,
        state smallint NOT NULL,
        -- 0: about all recipients of the batch. Else about some of them, each part with message ids of its own.
        part integer NOT NULL DEFAULT 0,
        groups bytea,
        message_ids bytea,
        -- What it is about came of this attempt; none where nothing was armed.
        attempt_id uuid,
        accepted integer NOT NULL DEFAULT 0,
        -- Credits of those of whom nobody will learn whether they were sent.
        released integer NOT NULL DEFAULT 0,
        -- Who of the attempt was accepted, by index in the submission; none: all that were not refused.
        accepted_indexes bytea,
        parts integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        attempts integer NOT NULL DEFAULT 0,
        -- Which process took it last: a round of it that broke off is repeated at once.
        publisher text NOT NULL DEFAULT '',
        refused_reason text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (outbox_id, tenant_id),
        UNIQUE (batch_id, tenant_id, epoch, state, kind, part),
        FOREIGN KEY (batch_id, tenant_id) REFERENCES batches
    ) WITH (autovacuum_vacuum_scale_factor = 0.02)
    """,
    "CREATE INDEX outbox_due ON outbox (kind, next_attempt_at, outbox_id)",
    "COMMENT ON INDEX outbox_due IS 'outbox workers: what is to be delivered next'",
    # What the campaign service has acknowledged, as it stood in the outbox: if its database is set back, it hears of it
    # again. Ends with the batch (retention).
    """
    CREATE TABLE delivered_results (
        batch_id uuid NOT NULL,
        tenant_id text NOT NULL,
        outbox_id bigint NOT NULL,
        entry jsonb NOT NULL,
        delivered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (batch_id, tenant_id, outbox_id),
        FOREIGN KEY (batch_id, tenant_id) REFERENCES batches
    )
    """,
    "CREATE INDEX delivered_results_since ON delivered_results (delivered_at)",
    "COMMENT ON INDEX delivered_results_since IS 'RepublishResults: what was acknowledged since a moment'",
    """
    CREATE TABLE uncaptured_credits (
        batch_id uuid NOT NULL,
        tenant_id text NOT NULL,
        epoch bigint NOT NULL,
        part integer NOT NULL,
        units integer NOT NULL,
        reason text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (batch_id, tenant_id, epoch, part),
        FOREIGN KEY (batch_id, tenant_id) REFERENCES batches
    )
    """,
    f"""
    CREATE TABLE evidence (
        -- The provider's ids are one space for all tenants, and whose it is, is what is looked for.
        provider_message_id text PRIMARY KEY,
        raw_status text NOT NULL,
        -- What the reports of it say: the first one that is final counts.
        status smallint NOT NULL DEFAULT {MessageStatus.SENT}
            CHECK (status BETWEEN {min(MessageStatus)} AND {max(MessageStatus)}),
        received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        state smallint NOT NULL DEFAULT {EvidenceState.OPEN}
            CHECK (state BETWEEN {min(EvidenceState)} AND {max(EvidenceState)}),
        attempts integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        reason text NOT NULL DEFAULT '',
        provider_phone bigint,
        provider_texts bytea[],
        provider_sender text,
        provider_created_at timestamptz,
        batch_id uuid,
        tenant_id text,
        position integer,
        FOREIGN KEY (batch_id, tenant_id) REFERENCES batches,
        CHECK ((state = {EvidenceState.MATCHED})
            = (batch_id IS NOT NULL AND tenant_id IS NOT NULL AND position IS NOT NULL))
    )
    """,
    f"CREATE INDEX evidence_open ON evidence (next_attempt_at) WHERE state = {EvidenceState.OPEN}",
    "COMMENT ON INDEX evidence_open IS 'evidence worker: which reports are to be looked into next'",
    f"""
    CREATE INDEX evidence_provider_phone ON evidence (provider_phone)
        WHERE state = {EvidenceState.OPEN} AND provider_phone IS NOT NULL
    """,
    "COMMENT ON INDEX evidence_provider_phone IS 'evidence: reports that cannot be distinguished'",
    f"""
    CREATE UNIQUE INDEX evidence_recipient ON evidence (batch_id, tenant_id, position)
        WHERE state = {EvidenceState.MATCHED}
    """,
    "COMMENT ON INDEX evidence_recipient IS 'one message id for each recipient of a batch; ids of a batch in order'",
    f"""
    CREATE TABLE messages (
        message_id uuid NOT NULL,
        tenant_id text NOT NULL,
        external_id text COLLATE "C",
        phone bigint NOT NULL,
        sender text NOT NULL,
        message_class smallint NOT NULL,
        fingerprint bytea NOT NULL,
        status smallint NOT NULL DEFAULT {MessageStatus.QUEUED},
        reason text NOT NULL DEFAULT '',
        description text NOT NULL DEFAULT '',
        provider_message_id text,
        parts integer NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (message_id, tenant_id)
    )
    """,
    "CREATE UNIQUE INDEX messages_by_external_id ON messages (tenant_id, external_id) WHERE external_id IS NOT NULL",
    "COMMENT ON INDEX messages_by_external_id IS 'a message by the caller''s own id; none is given twice'",
    "CREATE UNIQUE INDEX messages_provider_id ON messages (provider_message_id)",
    """
    COMMENT ON INDEX messages_provider_id IS
        'delivery reports of single messages: they name the provider''s id, which spans tenants'
    """,
    "CREATE INDEX messages_tenant ON messages (tenant_id, created_at, message_id)",
    "COMMENT ON INDEX messages_tenant IS 'ListMessages'",
    f"""
    CREATE INDEX messages_interrupted ON messages (created_at)
        WHERE status = {MessageStatus.QUEUED} OR reason = '{CREDIT_RESERVED}'
    """,
    "COMMENT ON INDEX messages_interrupted IS 'sweeper: messages whose caller died before they were queued'",
    """
    CREATE TABLE opt_outs (
        tenant_id text NOT NULL,
        phone bigint NOT NULL,
        -- Of the tenant's list, when the number came into it.
        version bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant_id, phone)
    )
    """,
    "CREATE INDEX opt_outs_newer ON opt_outs (tenant_id, version, phone)",
    "COMMENT ON INDEX opt_outs_newer IS 'arm: opt-outs of a tenant that are newer than a version, usually none'",
    """
    CREATE TABLE opt_out_versions (
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
        -- None: no limit; 0: nothing may be sent.
        max_requests bigint,
        max_messages bigint,
        window_ms bigint NOT NULL,
        version bigint NOT NULL DEFAULT 1,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (scope, key)
    )
    """,
    # What is known of a traffic account's health. Rows of accounts stay, those of lanes end with their holds.
    """
    CREATE TABLE account_holds (
        traffic_account_id text NOT NULL,
        -- Whose lane it is about; none: the whole account.
        tenant_id text NOT NULL,
        campaign_id uuid NOT NULL,
        -- None: it is not held, and what follows is of the last hold.
        held_since timestamptz,
        kind smallint NOT NULL DEFAULT 0,
        reason text NOT NULL DEFAULT '',
        failures integer NOT NULL DEFAULT 0,
        failed_at timestamptz,
        probe_at timestamptz,
        -- The probe that is under way, and until when nobody else begins one.
        probe_id uuid,
        probe_until timestamptz,
        ended_at timestamptz,
        -- The only lane whose requests were ambiguous so far.
        offender_tenant_id text,
        offender_campaign_id uuid,
        -- The latest ambiguous single messages while the account was not held.
        ambiguous_singles timestamptz[] NOT NULL DEFAULT '{}',
        PRIMARY KEY (traffic_account_id, tenant_id, campaign_id)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE operator_actions (
        -- Whatever tenant the batch is of: an operator's request id is used once.
        request_id uuid PRIMARY KEY,
        kind text NOT NULL,
        -- Both or none; else the subject says what it is about.
        batch_id uuid,
        tenant_id text,
        subject text NOT NULL DEFAULT '',
        reason text NOT NULL,
        operator text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        FOREIGN KEY (batch_id, tenant_id) REFERENCES batches MATCH FULL,
        CHECK ((batch_id IS NULL) = (subject <> ''))
    )
    """,
    # An operator's orders that nothing be sent. Few, and usually none: whoever claims or arms looks into it.
    """
    CREATE TABLE stops (
        scope smallint NOT NULL,
        -- The traffic account or tenant; empty where everything is stopped.
        key text NOT NULL,
        -- 0: of every class.
        message_class smallint NOT NULL,
        reason text NOT NULL,
        operator text NOT NULL,
        stopped_at timestamptz NOT NULL,
        PRIMARY KEY (scope, key, message_class)
    )
    """,
    # Batches that an operator's statement is meant for, as they were counted to him; for a quarter of an hour.
    """
    CREATE TABLE resolution_plans (
        -- Of whatever tenants the batches are.
        token uuid PRIMARY KEY,
        resolution text NOT NULL,
        tenant_ids text[] NOT NULL,
        batch_ids uuid[] NOT NULL,
        epochs bigint[] NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CHECK (cardinality(tenant_ids) = cardinality(batch_ids) AND cardinality(epochs) = cardinality(batch_ids))
    )
    """,
    # Accepted batches whose final reports are still awaited: when the provider is asked about them next.
    """
    CREATE TABLE report_refreshes (
        batch_id uuid NOT NULL,
        tenant_id text NOT NULL,
        accepted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        round integer NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        after_phone bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (batch_id, tenant_id),
        FOREIGN KEY (batch_id, tenant_id) REFERENCES batches ON DELETE CASCADE
    ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02)
    """,
    "CREATE INDEX report_refreshes_due ON report_refreshes (due_at)",
    "COMMENT ON INDEX report_refreshes_due IS 'report refresher: the batches to be asked about next'",
    # The size in force per traffic account, where it follows the provider (SMS_BATCH_SIZE=auto).
    """
    CREATE TABLE batch_sizes (
        traffic_account_id text PRIMARY KEY,
        size integer NOT NULL CHECK (size > 0),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
    ) WITH (fillfactor = 50)
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)

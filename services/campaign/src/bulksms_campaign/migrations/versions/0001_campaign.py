"""The tables of the campaign service."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The tenant is in every primary, unique and foreign key, so that the tables can be spread over servers by it.
# No column has a clock as its default: the instant of a transaction is read once and passed on.
_STATEMENTS = (
    # --- contacts ---------------------------------------------------------------------------------------------------
    # Phone numbers are E.164 digits as bigint: 8 bytes, in order, no collation.
    """
    CREATE TABLE contacts (
        phone bigint NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        tenant_id text COLLATE "C" NOT NULL,
        first_name text NOT NULL,
        last_name text NOT NULL,
        external_id text COLLATE "C",
        PRIMARY KEY (tenant_id, phone)
    )
    """,
    "CREATE UNIQUE INDEX contacts_by_external_id ON contacts (tenant_id, external_id) WHERE external_id IS NOT NULL",
    "COMMENT ON INDEX contacts_by_external_id IS 'a contact by the caller''s own id; none is given twice'",
    # (tenant_id, group_name, phone) serves audiences; (tenant_id, phone) serves reading and deleting one contact.
    """
    CREATE TABLE contact_groups (
        phone bigint NOT NULL,
        added_at timestamptz NOT NULL,
        tenant_id text COLLATE "C" NOT NULL,
        group_name text COLLATE "C" NOT NULL,
        PRIMARY KEY (tenant_id, group_name, phone)
    )
    """,
    "CREATE INDEX contact_groups_by_phone ON contact_groups (tenant_id, phone)",
    "COMMENT ON INDEX contact_groups_by_phone IS 'the groups of one contact: GetContact, DeleteContact, OptOut'",
    """
    CREATE TABLE opt_outs (
        phone bigint NOT NULL,
        created_at timestamptz NOT NULL,
        tenant_id text COLLATE "C" NOT NULL,
        source text NOT NULL,
        PRIMARY KEY (tenant_id, phone)
    )
    """,
    # How many contacts a tenant ('' as group_name) or a group has, and how many of those have opted out: cached, so
    # that EnqueueCampaign need not count millions of rows. `version` grows with every change of a list's size.
    """
    CREATE TABLE contact_counts (
        tenant_id text COLLATE "C" NOT NULL,
        group_name text COLLATE "C" NOT NULL,
        contacts bigint NOT NULL DEFAULT 0 CHECK (contacts >= 0),
        opted_out bigint NOT NULL DEFAULT 0 CHECK (opted_out BETWEEN 0 AND contacts),
        version bigint NOT NULL DEFAULT 1,
        PRIMARY KEY (tenant_id, group_name)
    ) WITH (fillfactor = 50)
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
        used_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, audience_id),
        CHECK (since IS NOT NULL OR (reachable >= 0 AND opted_out >= 0))
    ) WITH (fillfactor = 50)
    """,
    # Opt-outs and opt-ins still to be delivered to the dispatcher, the last one per number.
    """
    CREATE TABLE opt_out_changes (
        tenant_id text COLLATE "C" NOT NULL,
        phone bigint NOT NULL,
        opted_out boolean NOT NULL,
        change_id uuid NOT NULL,
        PRIMARY KEY (tenant_id, phone)
    )
    """,
    # --- imports ----------------------------------------------------------------------------------------------------
    """
    CREATE TABLE imports (
        tenant_id text COLLATE "C" NOT NULL,
        import_id uuid NOT NULL,
        content_hash bytea NOT NULL,
        lines bigint NOT NULL,
        created bigint NOT NULL,
        updated bigint NOT NULL,
        duplicates bigint NOT NULL,
        rejected bigint NOT NULL,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, import_id),
        CHECK (lines = created + updated + duplicates + rejected)
    )
    """,
    # Lines that are no contact of their own; nothing personal in it.
    """
    CREATE TABLE import_lines (
        tenant_id text COLLATE "C" NOT NULL,
        import_id uuid NOT NULL,
        line_number bigint NOT NULL,
        outcome smallint NOT NULL,
        reason text NOT NULL,
        field text NOT NULL,
        message text NOT NULL,
        first_line_number bigint NOT NULL,
        PRIMARY KEY (tenant_id, import_id, line_number)
    )
    """,
    # --- campaigns --------------------------------------------------------------------------------------------------
    """
    CREATE TABLE campaigns (
        campaign_id uuid NOT NULL,
        tenant_id text COLLATE "C" NOT NULL,
        name text NOT NULL,
        text text NOT NULL,
        sender text NOT NULL,
        all_contacts boolean NOT NULL,
        groups text[] NOT NULL,
        exclude_groups text[] NOT NULL,
        priority smallint NOT NULL,
        message_class smallint NOT NULL,
        external_id text COLLATE "C",
        state smallint NOT NULL,
        revision integer NOT NULL,
        scheduled_at timestamptz,
        not_after timestamptz,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        ended_at timestamptz,
        enqueue_number integer NOT NULL,
        PRIMARY KEY (tenant_id, campaign_id)
    ) WITH (fillfactor = 70)
    """,
    "CREATE INDEX campaigns_newest ON campaigns (tenant_id, created_at DESC, campaign_id DESC)",
    "COMMENT ON INDEX campaigns_newest IS 'ListCampaigns'",
    "CREATE UNIQUE INDEX campaigns_by_external_id ON campaigns (tenant_id, external_id) WHERE external_id IS NOT NULL",
    "COMMENT ON INDEX campaigns_by_external_id IS 'a campaign by the caller''s own id; none is given twice'",
    # One row for each start of a campaign's sending; it owns the reservation, the snapshot and the counters of the
    # people whose latest enqueue it is, so that figures of one never mix with another's. The counters change with every
    # batch and every report: not in the campaign's row, so that locking a campaign and counting do not wait for each
    # other.
    """
    CREATE TABLE enqueues (
        campaign_id uuid NOT NULL,
        reservation_id uuid NOT NULL,
        enqueued_at timestamptz NOT NULL,
        snapshot_at timestamptz,
        submitted_at timestamptz,
        total bigint NOT NULL DEFAULT 0,
        queued bigint NOT NULL DEFAULT 0 CHECK (queued >= 0),
        sent bigint NOT NULL DEFAULT 0,
        failed bigint NOT NULL DEFAULT 0 CHECK (failed >= 0),
        unconfirmed bigint NOT NULL DEFAULT 0,
        cancelled bigint NOT NULL DEFAULT 0 CHECK (cancelled >= 0),
        delivered bigint NOT NULL DEFAULT 0 CHECK (delivered BETWEEN 0 AND sent),
        accepted bigint NOT NULL DEFAULT 0 CHECK (accepted >= 0),
        accepted_units bigint NOT NULL DEFAULT 0 CHECK (accepted_units >= 0),
        ambiguous bigint NOT NULL DEFAULT 0 CHECK (ambiguous BETWEEN 0 AND unconfirmed),
        changed_at timestamptz,
        earlier_at timestamptz,
        earlier_processed bigint NOT NULL DEFAULT 0,
        later_at timestamptz,
        later_processed bigint NOT NULL DEFAULT 0,
        enqueue_number integer NOT NULL,
        launched_on date NOT NULL,
        tenant_id text COLLATE "C" NOT NULL,
        traceparent text NOT NULL,
        snapshot_digest bytea,
        PRIMARY KEY (tenant_id, campaign_id, enqueue_number),
        CHECK ((snapshot_at IS NULL) = (snapshot_digest IS NULL)),
        FOREIGN KEY (tenant_id, campaign_id) REFERENCES campaigns,
        CHECK (total = queued + sent + failed + unconfirmed + cancelled)
    ) WITH (fillfactor = 20)
    """,
    # The snapshots: one row per enqueue and person, inserted in phone order; batches are phone ranges. The launch day
    # is in the key, so that the table can be parted by day. `position` counts from 0 in phone order, without gaps, as
    # the dispatcher does. `superseded`: a later enqueue sends to this person again, and of this row only what was
    # accepted counts. No index mentions status or facts: a status update then touches no index (HOT), which is two
    # thirds of the obvious table's cost. In this key alone the tenant comes last: first, it would be compared at every
    # step down the index, which costs a batch's result a quarter more.
    """
    CREATE TABLE recipients (
        campaign_id uuid NOT NULL,
        phone bigint NOT NULL,
        updated_at timestamptz NOT NULL,
        enqueue_number integer NOT NULL,
        launched_on date NOT NULL,
        position integer NOT NULL,
        epoch integer NOT NULL DEFAULT 0,
        status smallint NOT NULL DEFAULT 1, -- RecipientStatus.QUEUED
        facts smallint NOT NULL DEFAULT 0,
        units smallint NOT NULL,
        superseded boolean NOT NULL DEFAULT false,
        tenant_id text COLLATE "C" NOT NULL,
        provider_message_id text,
        reason text,
        description text,
        report_description text,
        variables text[],
        PRIMARY KEY (campaign_id, enqueue_number, launched_on, phone, tenant_id)
    ) WITH (fillfactor = 70)
    """,
    # Without the tenant: a report names the provider's message and nobody else.
    "CREATE INDEX recipients_by_provider_message_id ON recipients USING hash (provider_message_id)",
    """
    COMMENT ON INDEX recipients_by_provider_message_id IS
    'RecordDeliveryReports: the recipient of a provider message id, which is all that a report says; so of any tenant'
    """,
    # Only its size changes much: analyse and vacuum it before a fifth of millions of rows has changed.
    "ALTER TABLE recipients SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02)",
    """
    CREATE TABLE campaign_batches (
        batch_id uuid NOT NULL,
        campaign_id uuid NOT NULL,
        first_phone bigint NOT NULL,
        last_phone bigint NOT NULL,
        epoch bigint NOT NULL,
        enqueue_number integer NOT NULL,
        tenant_id text COLLATE "C" NOT NULL,
        bulk_id text NOT NULL,
        traceparent text NOT NULL,
        attempt_id uuid,
        unsure_attempt_id uuid,
        recorded_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, batch_id)
    )
    """,
    "CREATE INDEX campaign_batches_by_phone ON campaign_batches (tenant_id, campaign_id, enqueue_number, first_phone)",
    "COMMENT ON INDEX campaign_batches_by_phone IS 'the batch a delivery report belongs to, for its trace'",
    """
    CREATE TABLE campaign_events (
        tenant_id text COLLATE "C" NOT NULL,
        campaign_id uuid NOT NULL,
        sequence bigint NOT NULL,
        kind smallint NOT NULL,
        detail text NOT NULL,
        at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, campaign_id, sequence),
        FOREIGN KEY (tenant_id, campaign_id) REFERENCES campaigns ON DELETE CASCADE
    )
    """,
    # What keeps a campaign from being sent, as it was seen last; gone when nothing does, and with the campaign's end.
    # `noted` is the reason that its history tells of, while that has not ended.
    """
    CREATE TABLE campaign_holds (
        campaign_id uuid NOT NULL,
        tenant_id text COLLATE "C" NOT NULL,
        reason smallint NOT NULL,
        noted smallint,
        since timestamptz NOT NULL,
        until timestamptz,
        batch_reason text NOT NULL,
        description text NOT NULL,
        PRIMARY KEY (tenant_id, campaign_id),
        FOREIGN KEY (tenant_id, campaign_id) REFERENCES campaigns ON DELETE CASCADE
    ) WITH (fillfactor = 50)
    """,
    # --- idempotency, credits, work ---------------------------------------------------------------------------------
    """
    CREATE TABLE requests (
        tenant_id text COLLATE "C" NOT NULL,
        request_id uuid NOT NULL,
        operation text NOT NULL,
        content_hash bytea NOT NULL,
        campaign_id uuid,
        created bigint NOT NULL,
        enqueued_jobs bigint NOT NULL,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, request_id)
    )
    """,
    # A reservation is written down before the ledger is asked for it, so that none can be forgotten.
    """
    CREATE TABLE reservations (
        reservation_id uuid NOT NULL,
        campaign_id uuid NOT NULL,
        tenant_id text COLLATE "C" NOT NULL,
        enqueue_number integer NOT NULL,
        attempt integer NOT NULL,
        state smallint NOT NULL,
        units bigint NOT NULL CHECK (units > 0),
        close_attempts integer NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        PRIMARY KEY (tenant_id, reservation_id),
        UNIQUE (tenant_id, campaign_id, enqueue_number, attempt)
    )
    """,
    # Work that goes on without a caller. A row is both the job and its lease; database time decides.
    """
    CREATE TABLE tasks (
        kind smallint NOT NULL,
        subject uuid NOT NULL,
        tenant_id text COLLATE "C" NOT NULL,
        generation bigint NOT NULL,
        attempts integer NOT NULL,
        due_at timestamptz NOT NULL,
        lease_id uuid,
        leased_until timestamptz,
        PRIMARY KEY (tenant_id, kind, subject)
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX tasks_due ON tasks (kind, due_at)",
    "COMMENT ON INDEX tasks_due IS 'a worker claims the task of its kind that is due longest, of whatever tenant'",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in (
        "tasks", "reservations", "requests", "campaign_holds", "campaign_events", "campaign_batches", "recipients",
        "enqueues", "campaigns", "import_lines", "imports", "opt_out_changes", "audience_sizes", "contact_counts",
        "opt_outs", "contact_groups", "contacts",
    ):  # fmt: skip
        op.execute(f"DROP TABLE {table}")

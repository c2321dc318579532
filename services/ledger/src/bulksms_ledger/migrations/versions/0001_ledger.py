"""The ledger: accounts, lots, reservations, entries, operations, audits, and the rules the database enforces."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Numbers of states and kinds, as the contract and the domain have them.
ACTIVE, CANCELLED = 1, 3  # the first and the last subscription status
OPEN, CLOSED = 1, 2  # reservation states
POSITIONS = 2**27  # of one reservation
GRANT, EXPIRE = 1, 8  # the first and the last kind of entry

ACCOUNTS = f"""
CREATE TABLE accounts (
    tenant_id text COLLATE "C" PRIMARY KEY,
    available bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0,
    captured bigint NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 0,
    entry_hash bytea NOT NULL,
    last_entry_at timestamptz,
    subscription_status smallint,
    subscription_active_until timestamptz,
    subscription_reason text,
    subscription_updated_at timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT accounts_tenant_id_form CHECK (tenant_id ~ '^[a-z0-9_-]{{1,64}}$'),
    CONSTRAINT accounts_available_not_negative CHECK (available >= 0),
    CONSTRAINT accounts_reserved_not_negative CHECK (reserved >= 0),
    CONSTRAINT accounts_captured_not_negative CHECK (captured >= 0),
    CONSTRAINT accounts_subscription_status_known CHECK (subscription_status BETWEEN {ACTIVE} AND {CANCELLED}),
    CONSTRAINT accounts_subscription_whole CHECK (
        num_nulls(subscription_status, subscription_reason, subscription_updated_at) IN (0, 3)),
    CONSTRAINT accounts_entry_hash_length CHECK (octet_length(entry_hash) = 32)
) WITH (fillfactor = 70)
"""

# Read by their primary key: the history of one tenant's subscription.
SUBSCRIPTION_EVENTS = f"""
CREATE TABLE subscription_events (
    tenant_id text COLLATE "C" NOT NULL REFERENCES accounts,
    event_id bigint GENERATED ALWAYS AS IDENTITY,
    request_id uuid NOT NULL,
    status smallint NOT NULL,
    active_until timestamptz,
    reason text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, event_id),
    CONSTRAINT subscription_events_status_known CHECK (status BETWEEN {ACTIVE} AND {CANCELLED})
)
"""

LOTS = """
CREATE TABLE lots (
    tenant_id text COLLATE "C" NOT NULL REFERENCES accounts,
    version bigint NOT NULL,
    units bigint NOT NULL,
    available bigint NOT NULL,
    expires_at timestamptz,
    source_ref text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, version),
    CONSTRAINT lots_units_positive CHECK (units > 0),
    CONSTRAINT lots_available_within_units CHECK (available BETWEEN 0 AND units)
) WITH (fillfactor = 70)
"""

# A reservation's id is its caller's, so two tenants may have the same one: it names a reservation within its account.
RESERVATIONS = f"""
CREATE TABLE reservations (
    tenant_id text COLLATE "C" NOT NULL REFERENCES accounts,
    reservation_id uuid NOT NULL,
    campaign_id text NOT NULL,
    state smallint NOT NULL,
    units bigint NOT NULL,
    open_units bigint NOT NULL,
    authorized bigint NOT NULL,
    captured bigint NOT NULL,
    released bigint NOT NULL,
    refunded bigint NOT NULL,
    opened_version bigint NOT NULL,
    lot_allocations jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    closed_at timestamptz,
    enqueue_number integer NOT NULL,
    snapshot_digest bytea NOT NULL,
    number bigint NOT NULL,
    is_live boolean NOT NULL GENERATED ALWAYS AS (state = {OPEN} OR authorized > 0) STORED,
    PRIMARY KEY (tenant_id, reservation_id),
    CONSTRAINT reservations_number_positive CHECK (number > 0),
    CONSTRAINT reservations_units_positive CHECK (units > 0),
    CONSTRAINT reservations_units_add_up CHECK (units = open_units + authorized + captured + released),
    CONSTRAINT reservations_parts_not_negative CHECK (
        open_units >= 0 AND authorized >= 0 AND captured >= 0 AND released >= 0),
    CONSTRAINT reservations_enqueue_number_not_negative CHECK (enqueue_number >= 0),
    CONSTRAINT reservations_snapshot_digest_length CHECK (octet_length(snapshot_digest) <= 64),
    CONSTRAINT reservations_authorized_for_a_snapshot CHECK (authorized = 0 OR snapshot_digest <> ''),
    CONSTRAINT reservations_refunded_within_captured CHECK (refunded BETWEEN 0 AND captured),
    CONSTRAINT reservations_state_known CHECK (state IN ({OPEN}, {CLOSED})),
    CONSTRAINT reservations_closed_has_nothing_open CHECK (state = {OPEN} OR open_units = 0),
    CONSTRAINT reservations_closed_has_time CHECK ((state = {CLOSED}) = (closed_at IS NOT NULL))
) WITH (fillfactor = 70)
"""

# A row per attempt that was ever authorized, withdrawn or void, kept for ever: a dispatcher's row may come back from
# any backup. A tombstone has no positions and no units.
# No position of a reservation is taken by two attempts: all reservations' positions stand on one line of numbers, each
# with 2^24 of its own from its `number` on, and no two rows may overlap on it. (To compare the reservation as such, the
# constraint would need the extension btree_gist, which is not everywhere.) The line has room for 2^36 reservations.
# The attempt stands first in the key: a search by tenant alone, with which no plan shall be tempted, is none then.
AUTHORIZATIONS = f"""
CREATE TABLE authorizations (
    attempt_id uuid NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    reservation_number bigint NOT NULL,
    taken int8multirange NOT NULL,
    captured_positions int8multirange NOT NULL,
    units bigint NOT NULL,
    authorized bigint NOT NULL,
    captured bigint NOT NULL,
    released bigint NOT NULL,
    voided bigint NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (attempt_id, tenant_id, reservation_number),
    CONSTRAINT authorizations_of_a_reservation FOREIGN KEY (tenant_id, reservation_number)
        REFERENCES reservations (tenant_id, number),
    CONSTRAINT authorizations_taken_once EXCLUDE USING gist (taken WITH &&),
    CONSTRAINT authorizations_within_the_reservation CHECK (taken <@ int8multirange(int8range(
        reservation_number * {POSITIONS}, (reservation_number + 1) * {POSITIONS}))),
    CONSTRAINT authorizations_captured_is_taken CHECK (captured_positions <@ taken),
    CONSTRAINT authorizations_units_add_up CHECK (units = authorized + captured + released + voided),
    CONSTRAINT authorizations_parts_not_negative CHECK (
        authorized >= 0 AND captured >= 0 AND released >= 0 AND voided >= 0),
    CONSTRAINT authorizations_authorized_for_somebody CHECK (authorized = 0 OR NOT taken <@ captured_positions),
    CONSTRAINT authorizations_tombstone_holds_nothing CHECK (units > 0 OR isempty(taken))
) WITH (fillfactor = 70)
"""

RESERVATION_NUMBERS = "CREATE SEQUENCE reservation_numbers OWNED BY reservations.number"

# Of a tenant that the statistics do not know PostgreSQL expects one row, whatever index finds it: a capture then read
# all of the tenant's reservations to find one by its key. Without statistics it expects a 200th of the table.
TENANTS_ARE_ALIKE = "ALTER TABLE reservations ALTER COLUMN tenant_id SET STATISTICS 0"

# granted_posting is the source of all credits: what comes into an account leaves there, so that every entry balances.
# Evidence is JSON, made by the ledger alone and covered by the hash; parsing it to jsonb took a fifth of all that
# PostgreSQL does for an entry.
ENTRIES = f"""
CREATE TABLE entries (
    tenant_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    kind smallint NOT NULL,
    units bigint NOT NULL,
    granted_posting bigint NOT NULL,
    available_posting bigint NOT NULL,
    reserved_posting bigint NOT NULL,
    captured_posting bigint NOT NULL,
    available_after bigint NOT NULL,
    reserved_after bigint NOT NULL,
    captured_after bigint NOT NULL,
    reservation_id uuid,
    campaign_id text NOT NULL,
    request_id uuid NOT NULL,
    reason text NOT NULL,
    source_ref text NOT NULL,
    expires_at timestamptz,
    evidence text,
    created_at timestamptz NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (tenant_id, version),
    CONSTRAINT entries_version_positive CHECK (version > 0),
    CONSTRAINT entries_kind_known CHECK (kind BETWEEN {GRANT} AND {EXPIRE}),
    CONSTRAINT entries_postings_sum_to_zero CHECK (
        granted_posting + available_posting + reserved_posting + captured_posting = 0),
    CONSTRAINT entries_balances_not_negative CHECK (
        available_after >= 0 AND reserved_after >= 0 AND captured_after >= 0),
    CONSTRAINT entries_hash_length CHECK (octet_length(hash) = 32)
)
"""

# Kept for ever: the request id is the operation's key, its content tells a repeat from a reuse. Of a capture carried
# out neither content nor outcome is kept, but the entry that has most of both, the attempt, and the reservation's
# figures after it: a tenth of the bytes.
OPERATIONS = """
CREATE TABLE operations (
    request_id uuid PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    content text,
    outcome text,
    created_at timestamptz NOT NULL,
    entry_version bigint,
    captured bigint,
    released bigint,
    refunded bigint,
    authorized bigint,
    reservation_state smallint,
    attempt_id uuid,
    positions text,
    CONSTRAINT operations_kept_once CHECK (
        (num_nulls(content, outcome) = 0 AND num_nonnulls(
            entry_version, captured, released, refunded, authorized, reservation_state, attempt_id, positions) = 0)
        OR (num_nonnulls(content, outcome) = 0
            AND num_nulls(entry_version, captured, released, refunded, authorized, reservation_state) = 0))
)
"""

# A row per account from its opening on. Auditors of all replicas share it: who has locked the row audits the account.
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

INDEXES = (
    ("CREATE UNIQUE INDEX lots_source_ref ON lots (tenant_id, source_ref) WHERE source_ref IS NOT NULL",
     "lots_source_ref", "One purchase is granted once per account; looked up by every grant that names one"),
    ("CREATE INDEX lots_available ON lots (tenant_id, version) WHERE available > 0",
     "lots_available", "Lots with credits left, read with every group of operations"),
    ("CREATE INDEX lots_expiring ON lots (expires_at) WHERE available > 0 AND expires_at IS NOT NULL",
     "lots_expiring", "Expiry worker: accounts with lots past their end"),
    ("CREATE UNIQUE INDEX reservations_newest ON reservations (tenant_id, opened_version)",
     "reservations_newest", "ListReservations: newest first"),
    ("CREATE INDEX reservations_live ON reservations (tenant_id, opened_version) WHERE is_live",
     "reservations_live", "ListReservations of open ones, and what is reserved: they are few among many"),
    ("CREATE UNIQUE INDEX reservations_number ON reservations (number, tenant_id)",
     "reservations_number", "Authorizations name their reservation by its number"),
    ("CREATE INDEX reservations_campaign ON reservations (tenant_id, campaign_id) WHERE campaign_id <> ''",
     "reservations_campaign", "ListEntries of one campaign: its reservations"),
    ("CREATE INDEX entries_reservation ON entries (tenant_id, reservation_id, version) WHERE reservation_id IS NOT NULL",  # noqa: E501
     "entries_reservation", "ListEntries of one reservation or campaign, in version order"),
    ("CREATE INDEX audits_due ON audits (audited_at)", "audits_due", "Auditor: the account not looked at for longest"),
    ("CREATE INDEX audits_found ON audits (tenant_id) WHERE found_at IS NOT NULL",
     "audits_found", "Auditor: whether anything differs anywhere"),
)  # fmt: skip

TAKEN_ONCE = """
COMMENT ON INDEX authorizations_taken_once IS 'Who holds any of the positions that are asked for; nobody does twice'
"""

# The only key without the tenant.
SPANS_TENANTS = """
COMMENT ON INDEX operations_pkey IS
    'Spans tenants: a request id is decided once, so a client that mixes up two tenants is refused, not charged twice'
"""

# Entries, operations and events are written once. Who must correct something writes another entry.
REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE restrict_violation USING
        MESSAGE = concat('table ', TG_TABLE_NAME, ' is append-only: ', TG_OP, ' refused');
END
$$
"""

# New entries continue the account without a gap, each from the figures of the one before, and end where the account
# row stands (which is written first). Groups write many at once: one sort of rows that come sorted, and one look by
# primary key at the entry before the first. (A look per entry took longer than all the rest of writing them.)
# The plan is made while the table is still small, and kept: it must not be one that reads the whole table.
ENTRIES_CONTINUE = """
CREATE FUNCTION entries_continue() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    account record;
    previous entries;
    follows boolean;
BEGIN
    FOR account IN
        SELECT tenant_id, min(version) AS first, max(version) AS last FROM written GROUP BY tenant_id
    LOOP
        SELECT * INTO previous FROM entries WHERE tenant_id = account.tenant_id AND version = account.first - 1;
        SELECT bool_and(
            version = version_before + 1
            AND available_after = available_before + available_posting
            AND reserved_after = reserved_before + reserved_posting
            AND captured_after = captured_before + captured_posting
            AND created_at >= created_before
        ) INTO follows
        FROM (
            SELECT *,
                lag(version, 1, coalesce(previous.version, 0)) OVER in_order AS version_before,
                lag(available_after, 1, coalesce(previous.available_after, 0)) OVER in_order AS available_before,
                lag(reserved_after, 1, coalesce(previous.reserved_after, 0)) OVER in_order AS reserved_before,
                lag(captured_after, 1, coalesce(previous.captured_after, 0)) OVER in_order AS captured_before,
                lag(created_at, 1, coalesce(previous.created_at, '-infinity')) OVER in_order AS created_before
            FROM (
                SELECT version, available_after, reserved_after, captured_after, created_at,
                    available_posting, reserved_posting, captured_posting
                FROM written WHERE tenant_id = account.tenant_id
            ) AS of_account
            WINDOW in_order AS (ORDER BY version)
        ) AS entry;
        IF follows IS NOT TRUE THEN
            RAISE EXCEPTION 'entries do not continue the account: a gap, a wrong running balance or time running back'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'entries_continue';
        END IF;
        PERFORM FROM accounts
            JOIN written AS newest ON newest.tenant_id = account.tenant_id AND newest.version = account.last
            WHERE accounts.tenant_id = account.tenant_id AND accounts.version = newest.version
                AND accounts.available = newest.available_after AND accounts.reserved = newest.reserved_after
                AND accounts.captured = newest.captured_after AND accounts.entry_hash = newest.hash;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the account row differs from its last entry'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'entries_continue';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$
"""

# The other direction: at commit every account row says what its last entry says. One look per group of operations.
ACCOUNT_IS_LAST_ENTRY = """
CREATE FUNCTION account_is_last_entry() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    now_row accounts;
BEGIN
    SELECT * INTO now_row FROM accounts WHERE tenant_id = NEW.tenant_id;
    IF NOT FOUND OR (now_row.version = 0 AND now_row.available = 0 AND now_row.reserved = 0 AND now_row.captured = 0)
    THEN
        RETURN NULL;
    END IF;
    IF NOT EXISTS (
        SELECT FROM entries
        WHERE tenant_id = now_row.tenant_id AND version = now_row.version
            AND available_after = now_row.available AND reserved_after = now_row.reserved
            AND captured_after = now_row.captured AND hash = now_row.entry_hash
    ) THEN
        RAISE EXCEPTION 'the account row differs from its last entry'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'account_is_last_entry';
    END IF;
    RETURN NULL;
END
$$
"""

OPEN_AN_AUDIT = """
CREATE FUNCTION open_an_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audits (tenant_id) VALUES (NEW.tenant_id);
    RETURN NULL;
END
$$
"""

TRIGGERS = (
    "CREATE TRIGGER open_an_audit AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION open_an_audit()",
    """CREATE TRIGGER entries_continue AFTER INSERT ON entries REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION entries_continue()""",
    """CREATE CONSTRAINT TRIGGER account_is_last_entry AFTER INSERT OR UPDATE ON accounts
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION account_is_last_entry()""",
    *(
        f"""CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"""
        for table in ("entries", "operations", "subscription_events")
    ),
)


def upgrade() -> None:
    """Create everything."""
    for statement in (
        ACCOUNTS,
        SUBSCRIPTION_EVENTS,
        LOTS,
        RESERVATIONS,
        RESERVATION_NUMBERS,
        TENANTS_ARE_ALIKE,
        ENTRIES,
        OPERATIONS,
        AUDITS,
    ):
        op.execute(statement)
    for statement, name, query in INDEXES:
        op.execute(statement)
        op.execute(f"COMMENT ON INDEX {name} IS '{query}'")
    op.execute(AUTHORIZATIONS)
    op.execute(TAKEN_ONCE)
    op.execute(SPANS_TENANTS)
    for statement in (REFUSE_CHANGE, ENTRIES_CONTINUE, ACCOUNT_IS_LAST_ENTRY, OPEN_AN_AUDIT, *TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    """Refused: a ledger is not dropped by a migration."""
    raise NotImplementedError("restore the database from a backup instead: dropping the ledger loses credits")

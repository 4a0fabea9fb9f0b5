import GRDB

/// The tables of the control center's database, by migrations. What users may rely on is the view
/// `readings` (docs/readings-view.md); the tables behind it may change with a migration.
///
/// Rows are numbered by the ingest path itself, and no foreign keys are declared: everything is written by
/// one writer, whole batches at a time, and a check per row would cost more than the row.
enum Schema {
    /// Says that a file is ours: the application id of its header ("SMQ1").
    static let applicationID = 0x534D_5131

    static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { db in
            try db.execute(sql: "PRAGMA application_id = \(Self.applicationID)")
            try db.execute(sql: Self.parties)
            try db.execute(sql: Self.ledger)
            try db.execute(sql: Self.measurements)
            try db.execute(sql: Self.incidents)
            try db.execute(sql: Self.views)
        }
        migrator.registerMigration("licore") { db in
            try db.execute(sql: Self.licore)
            try db.execute(sql: Self.licoreViews)
        }
        migrator.registerMigration("updates-and-alerts") { db in
            try db.execute(sql: Self.updates)
            try db.execute(sql: Self.alerts)
            try db.execute(sql: Self.watchedLiCore)
        }
        migrator.registerMigration("unconfirmed") { db in
            try db.execute(sql: Self.unconfirmed)
            try db.execute(sql: "DROP VIEW readings; CREATE VIEW readings AS \(Self.allReadings(Self.isDisputed))")
        }
        migrator.registerMigration("authority-events") { db in
            try db.execute(sql: Self.authorityEvents)
        }
        return migrator
    }

    private static let parties = """
        CREATE TABLE auditor (
            number INTEGER PRIMARY KEY,
            spiffe TEXT NOT NULL UNIQUE,
            id TEXT NOT NULL,
            open_stream INTEGER
        );
        CREATE INDEX auditor_id ON auditor (id);

        -- Certificates of which the chain was verified when they were first seen.
        CREATE TABLE certificate (
            number INTEGER PRIMARY KEY,
            hash BLOB NOT NULL UNIQUE,       -- SHA-256 of the leaf's DER, as in COSE x5t
            spiffe TEXT NOT NULL,
            first_seen INTEGER NOT NULL      -- nanoseconds since 1970
        );
        CREATE TABLE certificate_chain (
            certificate INTEGER NOT NULL,
            position INTEGER NOT NULL,       -- 0 is the leaf
            der BLOB NOT NULL,
            PRIMARY KEY (certificate, position)
        ) WITHOUT ROWID;
        """

    private static let ledger = """
        CREATE TABLE stream (
            number INTEGER PRIMARY KEY,
            auditor INTEGER NOT NULL,
            id BLOB NOT NULL,                -- 8 bytes
            state INTEGER NOT NULL,          -- 0 its first statement has not come, 1 open, 2 closed
            head_sequence INTEGER,           -- the newest statement held
            head_id BLOB,
            origin BLOB,                     -- prev of its first statement
            disputed_from INTEGER,           -- there is an open fork
            UNIQUE (auditor, id)
        );
        CREATE INDEX stream_pending ON stream (auditor) WHERE state = 0;

        -- Which sequence numbers are held: between two runs is a gap.
        CREATE TABLE run (
            stream INTEGER NOT NULL,
            first INTEGER NOT NULL,
            last INTEGER NOT NULL,
            PRIMARY KEY (stream, first)
        ) WITHOUT ROWID;

        -- leaf_index is the order in which statements were stored. 0 is kept for the log's genesis.
        CREATE TABLE statement (
            leaf_index INTEGER PRIMARY KEY,
            auditor INTEGER NOT NULL,
            stream INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            id BLOB NOT NULL,                -- SHA-256(0x00 || bytes)
            kind TEXT NOT NULL,              -- statement, heartbeat, result
            certificate INTEGER NOT NULL,
            received INTEGER NOT NULL,       -- nanoseconds since 1970, by our clock
            bytes BLOB NOT NULL              -- as signed
        );
        CREATE UNIQUE INDEX statement_place ON statement (stream, sequence);
        """

    private static let measurements = """
        CREATE TABLE series (
            number INTEGER PRIMARY KEY,
            auditor INTEGER NOT NULL,
            meter TEXT NOT NULL,
            quantity TEXT NOT NULL,
            unit TEXT NOT NULL,
            UNIQUE (auditor, meter, quantity, unit)
        );

        -- The value is mantissa * 10^exponent, with the digits the meter gave; no mantissa: missing.
        CREATE TABLE reading (
            series INTEGER NOT NULL,
            time INTEGER NOT NULL,           -- nanoseconds since 1970; the start, if there is an interval
            leaf_index INTEGER NOT NULL,
            position INTEGER NOT NULL,       -- in its statement, from 0
            interval INTEGER NOT NULL,       -- nanoseconds; 0 for none
            mantissa INTEGER,
            exponent INTEGER NOT NULL,       -- -18 ... 0
            quality INTEGER NOT NULL,        -- see table quality
            PRIMARY KEY (series, time, leaf_index, position)
        ) WITHOUT ROWID;

        CREATE TABLE quality (number INTEGER PRIMARY KEY, name TEXT NOT NULL);
        INSERT INTO quality VALUES (0, 'good'), (101, 'estimated'), (114, 'reset'), (109, 'missing'), (120, 'implausible');

        -- What turns a mantissa into digits around a point.
        CREATE TABLE decimal_scale (exponent INTEGER PRIMARY KEY, divisor INTEGER NOT NULL);
        INSERT INTO decimal_scale
            WITH RECURSIVE scale (exponent, divisor) AS (
                SELECT 0, 1 UNION ALL SELECT exponent - 1, divisor * 10 FROM scale WHERE exponent > -18
            )
            SELECT exponent, divisor FROM scale;
        """

    private static let incidents = """
        -- Contradictions, kept for ever. They are open until an operator closes them.
        CREATE TABLE fork (
            number INTEGER PRIMARY KEY,
            auditor INTEGER NOT NULL,
            stream INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            id BLOB NOT NULL,
            kind TEXT NOT NULL,              -- same-sequence, previous, next
            stored BLOB NOT NULL,            -- the id it contradicts
            disputed_from INTEGER NOT NULL,
            certificate INTEGER NOT NULL,
            received INTEGER NOT NULL,
            bytes BLOB NOT NULL,
            closed INTEGER,
            closed_by TEXT
        );
        CREATE INDEX fork_stream ON fork (stream, sequence);

        -- Refused messages, up to a quota per claimed ID and reason. Nothing is deleted from it.
        CREATE TABLE quarantine (
            number INTEGER PRIMARY KEY,
            claimed TEXT NOT NULL,           -- the ID on whose topic it came; - for one that no auditor has
            reason TEXT NOT NULL,
            detail TEXT NOT NULL,
            topic TEXT NOT NULL,
            received INTEGER NOT NULL,
            bytes BLOB NOT NULL
        );
        CREATE INDEX quarantine_bucket ON quarantine (claimed, reason);

        -- How often each reason was met, quarantined or not: refusals, duplicates, held messages.
        CREATE TABLE counter (
            claimed TEXT NOT NULL,
            reason TEXT NOT NULL,
            count INTEGER NOT NULL,
            PRIMARY KEY (claimed, reason)
        ) WITHOUT ROWID;

        CREATE TABLE alarm (
            number INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,
            auditor TEXT NOT NULL,           -- SPIFFE ID, or empty
            detail TEXT NOT NULL,
            raised INTEGER NOT NULL,
            acknowledged INTEGER,
            acknowledged_by TEXT
        );
        """

    // What an expired certificate signed, taken on the number of a hello, until the chain up to there is whole.
    private static let unconfirmed = """
        ALTER TABLE stream ADD COLUMN unconfirmed_from INTEGER;
        ALTER TABLE stream ADD COLUMN unconfirmed_to INTEGER;
        """

    /// Whether the readings of a statement are disputed, as a condition on `stream` and `statement`.
    static let isDisputed = """
        (stream.disputed_from IS NOT NULL AND statement.sequence >= stream.disputed_from
            OR stream.unconfirmed_from IS NOT NULL
                AND statement.sequence BETWEEN stream.unconfirmed_from AND stream.unconfirmed_to)
        """

    private static let isForked = "stream.disputed_from IS NOT NULL AND statement.sequence >= stream.disputed_from"

    // The readings of signed statements, as columns of the view; and where they are.
    private static func signedColumns(_ isDisputed: String) -> String {
        """
        SELECT
            auditor.id AS auditor,
            series.meter AS meter,
            series.quantity AS quantity,
            series.unit AS unit,
            CASE reading.time % 1000000000
                WHEN 0 THEN strftime('%Y-%m-%dT%H:%M:%SZ', reading.time / 1000000000, 'unixepoch')
                ELSE strftime('%Y-%m-%dT%H:%M:%S', reading.time / 1000000000, 'unixepoch')
                    || printf('.%09dZ', reading.time % 1000000000)
            END AS time,
            CASE reading.interval WHEN 0 THEN NULL ELSE reading.interval / 1e9 END AS interval,
            CAST(reading.mantissa AS REAL) / decimal_scale.divisor AS value,
            CASE
                WHEN reading.mantissa IS NULL THEN NULL
                WHEN reading.exponent = 0 THEN CAST(reading.mantissa AS TEXT)
                ELSE printf('%s%d.%0*d',
                    CASE WHEN reading.mantissa < 0 THEN '-' ELSE '' END,
                    abs(reading.mantissa / decimal_scale.divisor),
                    -reading.exponent,
                    abs(reading.mantissa % decimal_scale.divisor))
            END AS exact,
            quality.name AS quality,
            lower(hex(stream.id)) AS stream,
            statement.sequence AS sequence,
            lower(hex(statement.id)) AS statement,
            \(isDisputed) AS disputed,
            reading.time / 1000000000 AS unix_time,
            reading.time AS time_ns,
            auditor.spiffe AS auditor_spiffe,
            reading.leaf_index AS leaf_index
        """
    }

    private static let signedTables = """
        FROM reading
        JOIN series ON series.number = reading.series
        JOIN auditor ON auditor.number = series.auditor
        JOIN statement ON statement.leaf_index = reading.leaf_index
        JOIN stream ON stream.number = statement.stream
        JOIN quality ON quality.number = reading.quality
        JOIN decimal_scale ON decimal_scale.exponent = reading.exponent
        """

    private static let views = """
        CREATE VIEW readings AS
        \(Self.signedColumns(Self.isForked))
        \(Self.signedTables);

        -- Sequence numbers that are missing below the newest one held.
        CREATE VIEW gaps AS
        SELECT auditor, auditor_spiffe, stream, first, last, last - first + 1 AS missing FROM (
            SELECT
                auditor.id AS auditor,
                auditor.spiffe AS auditor_spiffe,
                lower(hex(stream.id)) AS stream,
                coalesce(lag(run.last) OVER (PARTITION BY run.stream ORDER BY run.first), 0) + 1 AS first,
                run.first - 1 AS last
            FROM run
            JOIN stream ON stream.number = run.stream
            JOIN auditor ON auditor.number = stream.auditor
        ) WHERE first <= last;
        """

    // MARK: The original's format

    private static let licore = """
        -- Readings in the original's format: signed each by itself, without a place in a stream. The place is taken
        -- once: another value for it is quarantined (conflict).
        CREATE TABLE licore_reading (
            auditor INTEGER NOT NULL,
            local INTEGER NOT NULL,          -- nanoseconds since 1970 as the auditor's clock counts them
            kind INTEGER NOT NULL,           -- 0 consumption, 1 production
            time INTEGER NOT NULL,           -- nanoseconds since 1970 in UTC, by the auditor's time zone
            interval INTEGER NOT NULL,       -- nanoseconds
            mantissa INTEGER NOT NULL,
            exponent INTEGER NOT NULL,
            certificate_hash BLOB NOT NULL,  -- SHA-256 of the certificate that was pinned
            received INTEGER NOT NULL,
            bytes BLOB NOT NULL,             -- as signed, signature included
            PRIMARY KEY (auditor, local, kind)
        ) WITHOUT ROWID;
        CREATE INDEX licore_reading_time ON licore_reading (auditor, time);

        CREATE TABLE licore_activity (
            auditor INTEGER PRIMARY KEY,
            last_seen INTEGER NOT NULL,      -- when the newest was stored, nanoseconds since 1970
            readings INTEGER NOT NULL
        );

        -- Updates in the original's form, to be published by the control center.
        CREATE TABLE licore_update (
            number INTEGER PRIMARY KEY,
            auditor TEXT NOT NULL,
            parameter TEXT NOT NULL,
            value TEXT NOT NULL,
            ordered INTEGER NOT NULL,
            done INTEGER,
            outcome TEXT                     -- published, or why not
        );
        CREATE INDEX licore_update_open ON licore_update (number) WHERE done IS NULL;

        -- What the original's database had. Nobody verified it here.
        CREATE TABLE licore_history (
            number INTEGER PRIMARY KEY,
            auditor TEXT NOT NULL,
            date TEXT NOT NULL,              -- as it was written
            kind INTEGER NOT NULL,
            value TEXT NOT NULL,             -- its digits
            source TEXT NOT NULL,            -- the file's name
            imported INTEGER NOT NULL,
            UNIQUE (auditor, date, kind, value)
        );
        """

    private static func allReadings(_ isDisputed: String) -> String {
        """
        \(Self.signedColumns(isDisputed)),
            'cose' AS format
        \(Self.signedTables)
        UNION ALL
        SELECT
            auditor.id,
            'licore',
            CASE licore_reading.kind WHEN 0 THEN 'consumption' ELSE 'production' END,
            'kWh',
            CASE licore_reading.time % 1000000000
                WHEN 0 THEN strftime('%Y-%m-%dT%H:%M:%SZ', licore_reading.time / 1000000000, 'unixepoch')
                ELSE strftime('%Y-%m-%dT%H:%M:%S', licore_reading.time / 1000000000, 'unixepoch')
                    || printf('.%09dZ', licore_reading.time % 1000000000)
            END,
            licore_reading.interval / 1e9,
            CAST(licore_reading.mantissa AS REAL) / decimal_scale.divisor,
            CASE
                WHEN licore_reading.exponent = 0 THEN CAST(licore_reading.mantissa AS TEXT)
                ELSE printf('%s%d.%0*d',
                    CASE WHEN licore_reading.mantissa < 0 THEN '-' ELSE '' END,
                    abs(licore_reading.mantissa / decimal_scale.divisor),
                    -licore_reading.exponent,
                    abs(licore_reading.mantissa % decimal_scale.divisor))
            END,
            'good',
            NULL,
            NULL,
            NULL,
            0,
            licore_reading.time / 1000000000,
            licore_reading.time,
            auditor.spiffe,
            NULL,
            'licore'
        FROM licore_reading
        JOIN auditor ON auditor.number = licore_reading.auditor
        JOIN decimal_scale ON decimal_scale.exponent = licore_reading.exponent
        """
    }

    private static let licoreViews = """
        DROP VIEW readings;
        CREATE VIEW readings AS
        \(Self.allReadings(Self.isForked));

        CREATE VIEW history AS
        SELECT
            auditor,
            CASE kind WHEN 0 THEN 'consumption' ELSE 'production' END AS quantity,
            'kWh' AS unit,
            date,
            CAST(value AS REAL) AS value,
            value AS exact,
            source,
            strftime('%Y-%m-%dT%H:%M:%SZ', imported, 'unixepoch') AS imported
        FROM licore_history;
        """

    // MARK: The authority

    private static let authorityEvents = """
        -- What the authority did to certificates, as it told: each once.
        CREATE TABLE authority_event (
            number INTEGER PRIMARY KEY,      -- in the order in which they were read
            authority_number INTEGER UNIQUE, -- how far was read; NULL: it does not have it (any more)
            event TEXT NOT NULL,             -- issued, revoked
            certificate_hash BLOB NOT NULL,  -- SHA-256 of the DER
            spiffe TEXT NOT NULL,
            serial TEXT NOT NULL,            -- hexadecimal
            not_before INTEGER NOT NULL,     -- Unix seconds
            not_after INTEGER NOT NULL,
            time INTEGER NOT NULL,           -- when it happened, by the authority's clock
            requester TEXT,
            reason TEXT,
            received INTEGER NOT NULL,       -- nanoseconds since 1970
            UNIQUE (event, certificate_hash)
        );

        CREATE VIEW authority_events AS
        SELECT
            number,
            event,
            substr(spiffe, length(rtrim(spiffe, replace(spiffe, '/', ''))) + 1) AS id,
            spiffe,
            serial,
            strftime('%Y-%m-%dT%H:%M:%SZ', not_before, 'unixepoch') AS valid_from,
            strftime('%Y-%m-%dT%H:%M:%SZ', not_after, 'unixepoch') AS valid_until,
            strftime('%Y-%m-%dT%H:%M:%SZ', time, 'unixepoch') AS time,
            requester,
            reason,
            lower(hex(certificate_hash)) AS certificate,
            strftime('%Y-%m-%dT%H:%M:%SZ', received / 1000000000, 'unixepoch') AS received,
            authority_number IS NOT NULL AS known
        FROM authority_event;
        """

    // MARK: Updates and alerts

    private static let updates = """
        -- What operators have asked for: the queue of updates, and their history.
        CREATE TABLE update_request (
            number INTEGER PRIMARY KEY,
            batch BLOB NOT NULL,             -- 16 bytes, common to what was asked for together
            name TEXT,                       -- of the group
            auditor TEXT NOT NULL,           -- SPIFFE ID
            parameter TEXT NOT NULL,
            value BLOB NOT NULL,             -- CBOR, as in the update
            unit TEXT,
            asked INTEGER NOT NULL,          -- nanoseconds since 1970, as all times
            asked_by TEXT NOT NULL,
            expires INTEGER NOT NULL,
            state TEXT NOT NULL,             -- queued, sent, applied, refused, expired, superseded, cancelled
            sent INTEGER,                    -- when it was signed last
            finished INTEGER,
            reason TEXT,                     -- why not applied
            value_now TEXT                   -- the parameter's value, as the result says
        );
        CREATE INDEX update_pending ON update_request (auditor) WHERE state IN ('queued', 'sent');

        -- Every signed form, and the result that answers it.
        CREATE TABLE update_message (
            id BLOB PRIMARY KEY,
            request INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            nonce BLOB NOT NULL,
            signed INTEGER NOT NULL,
            bytes BLOB NOT NULL,
            result INTEGER                   -- the leaf_index of the result
        ) WITHOUT ROWID;
        CREATE INDEX update_message_request ON update_message (request);

        -- The highest number that was used: by SPIFFE ID for updates, '' for alerts.
        CREATE TABLE outgoing_number (target TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;

        -- How far somebody has read: results by leaf_index. gap-<ID>: so many missing numbers operators know of.
        CREATE TABLE cursor (name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
        CREATE INDEX statement_result ON statement (leaf_index) WHERE kind = 'result';
        """

    private static let alerts = """
        -- What operators and rules tell auditors.
        CREATE TABLE outgoing_alert (
            number INTEGER PRIMARY KEY,
            target TEXT NOT NULL,            -- SPIFFE ID; '' for all
            word TEXT NOT NULL,
            text TEXT NOT NULL,
            is_raised INTEGER NOT NULL,
            asked INTEGER NOT NULL,
            asked_by TEXT NOT NULL,
            expires INTEGER NOT NULL,
            id BLOB UNIQUE,                  -- once it is signed
            bytes BLOB
        );
        CREATE INDEX outgoing_alert_expires ON outgoing_alert (expires);
        CREATE TABLE outgoing_alert_shown (
            alert INTEGER NOT NULL,
            auditor TEXT NOT NULL,
            result INTEGER NOT NULL,         -- the leaf_index of the result that says so
            PRIMARY KEY (alert, auditor)
        ) WITHOUT ROWID;

        -- What auditors tell: verified, as signed.
        CREATE TABLE auditor_alert (
            number INTEGER PRIMARY KEY,
            auditor INTEGER NOT NULL,
            id BLOB NOT NULL UNIQUE,
            sequence INTEGER NOT NULL,
            word TEXT NOT NULL,
            text TEXT NOT NULL,
            is_raised INTEGER NOT NULL,
            certificate INTEGER NOT NULL,
            received INTEGER NOT NULL,
            bytes BLOB NOT NULL
        );

        -- What the rules have found. Raised until it is cleared; an operator may have acknowledged it before or since.
        CREATE TABLE alert (
            number INTEGER PRIMARY KEY,
            rule TEXT NOT NULL,
            auditor TEXT NOT NULL,           -- ID, or '-' for one that no auditor has
            subject TEXT NOT NULL,           -- what of it: a meter's quantity, a stream; or empty
            text TEXT NOT NULL,
            raised INTEGER NOT NULL,
            acknowledged INTEGER,
            acknowledged_by TEXT,
            cleared INTEGER
        );
        CREATE UNIQUE INDEX alert_open ON alert (rule, auditor, subject) WHERE cleared IS NULL;

        -- What is to be told to people, by which way, and whether it was.
        CREATE TABLE notification (
            number INTEGER PRIMARY KEY,
            alert INTEGER NOT NULL,
            event TEXT NOT NULL,             -- raised, cleared
            channel TEXT NOT NULL,           -- webhook, mail, mqtt
            state TEXT NOT NULL,             -- pending, sent, failed
            attempts INTEGER NOT NULL,
            due INTEGER NOT NULL,
            error TEXT
        );
        CREATE INDEX notification_pending ON notification (due) WHERE state = 'pending';
        """

    private static let watchedLiCore = """
        -- Who ordered it; NULL for what was ordered before this column was there.
        ALTER TABLE licore_update ADD COLUMN asked_by TEXT;
        -- The rules read what is new.
        CREATE INDEX licore_reading_received ON licore_reading (received);
        """
}

"""The tables, once, for both databases. The columns under "frozen" are promises to people who speak SQL."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    literal_column,
    text,
    true,
)

from imagen.store.columns import Instant, Json, new_id, now

# The indexes over a part of a table are so on both databases; the migrations say it. Here it is said for SQLite only,
# because a word with `postgresql_` in front would load that whole dialect at every start.
SCHEMA = "imagen"  # on SQLite the schema is dropped: one file is one schema

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    },
)

series = Table(
    "series",
    metadata,
    Column("id", Text, primary_key=True),
    Column("prompts", Json, nullable=False),
    Column("models", Json, nullable=False),
    Column("seeds", Json, nullable=False),
    Column("settings", Json, nullable=False, server_default=text("'{}'")),
    Column("owner", Text, nullable=False, server_default=text("'local'")),
    Column("cancelled", Boolean, nullable=False, server_default=false()),
    Column("created_at", Instant, nullable=False),
    Column("webhook", Text),
)

jobs = Table(
    "jobs",
    metadata,
    # frozen
    Column("id", Text, primary_key=True, server_default=new_id()),
    Column("prompt", Text, nullable=False),
    Column("model", Text),
    Column("negative", Text),
    Column("width", Integer),
    Column("height", Integer),
    Column("steps", Integer),
    Column("seed", BigInteger),
    Column("guidance", Float),
    Column("n", Integer),
    Column("options", Json),
    Column("preview", Json),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("series_id", Text, ForeignKey(series.c.id)),
    Column("cell", Integer),
    Column("owner", Text, nullable=False, server_default=text("'local'")),
    Column("state", Text, nullable=False, server_default=text("'queued'")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Column("error", Json),
    Column("created_at", Instant, nullable=False, server_default=now()),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("run_after", Instant),
    # ours
    Column("seq", Integer, nullable=False, server_default=text("1")),  # the last durable event
    Column("record", Json),  # the model as it was when this was resolved; empty = not resolved yet
    Column("device", Text),
    Column("worker", Text),
    Column("handle", Json),  # outside work to re-attach to
    Column("timings", Json),
    Column("facts", Json),
    Column("retry_of", Text),
    Column("superseded", Boolean, nullable=False, server_default=false()),  # a retry took over its cell
    Column("cancelled_by", Text),
    Column("webhook", Text),  # an address, or JSON: whom the trigger `jobs_ended` writes a delivery for
    CheckConstraint("state in ('queued', 'running', 'completed', 'failed', 'cancelled')", name="state"),
    CheckConstraint(
        "created_at is null or (created_at glob '[0-9][0-9][0-9][0-9]-*' and julianday(created_at) is not null)",
        name="created_at",
    ).ddl_if(dialect="sqlite"),
    CheckConstraint(
        "run_after is null or (run_after glob '[0-9][0-9][0-9][0-9]-*' and julianday(run_after) is not null)",
        name="run_after",
    ).ddl_if(dialect="sqlite"),
    CheckConstraint("created_at between '0001-01-01' and '9999-01-01'", name="created_at").ddl_if(dialect="postgresql"),
    CheckConstraint("run_after between '0001-01-01' and '9999-01-01'", name="run_after").ddl_if(dialect="postgresql"),
    # Looked at with each change of a row. As one pattern, with the length in it, it would take fifty times as long.
    CheckConstraint("length(id) between 1 and 200 and id !~ '[^A-Za-z0-9._-]'", name="id").ddl_if(dialect="postgresql"),
    CheckConstraint("options is null or json_valid(options)", name="options").ddl_if(dialect="sqlite"),
    CheckConstraint("preview is null or json_valid(preview)", name="preview").ddl_if(dialect="sqlite"),
    Index(
        "ix_jobs_claim",
        "model",
        text("priority DESC"),
        "created_at",
        "id",
        sqlite_where=text("state = 'queued'"),
    ),
    Index("ix_jobs_running", "worker", sqlite_where=text("state = 'running'")),
    Index(
        "ix_jobs_raw",  # `state` too, or SQLite prefers ix_jobs_state and goes through the whole queue
        "state",
        text("priority DESC"),
        "created_at",
        sqlite_where=text("state = 'queued' AND record IS NULL"),
    ),
    Index(
        "ix_jobs_queued_by",
        "state",
        "owner",
        sqlite_where=text("state = 'queued'"),
    ),
    Index("ix_jobs_history", "created_at", "id"),
    Index("ix_jobs_owner", "owner", "created_at", "id"),
    Index("ix_jobs_model", "model", "created_at", "id"),
    Index("ix_jobs_state", "state", "created_at", "id"),
    Index("ix_jobs_series", "series_id", "cell"),
)

# Written out and not as parameters: only then may a database use the indexes above that hold part of the table.
is_queued = jobs.c.state == literal_column("'queued'")
is_running = jobs.c.state == literal_column("'running'")
# Beside an id, of the one row that it names. PostgreSQL would rather look through all that run, in an index that begins
# with the state, when it was last told that few do.
still_queued, still_running = is_queued.is_(true()), is_running.is_(true())

images = Table(
    "images",
    metadata,
    # frozen
    Column("id", Text, primary_key=True),
    Column("job_id", Text, ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False),
    Column("idx", Integer, nullable=False),
    Column("url", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'stored'")),
    # ours
    Column("pixels_sha256", Text, nullable=False),
    Column("path", Text, nullable=False),  # inside the image store
    Column("mime", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("job_id", "idx"),
)

events = Table(
    "events",
    metadata,
    # One order over all jobs. PostgreSQL may show a number before a lower one, whose transaction is still open.
    Column("pos", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    Column("job_id", Text, ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("body", Json, nullable=False),
    UniqueConstraint("job_id", "seq"),
    sqlite_autoincrement=True,
)


# live, previews and watchers are worth nothing after a crash: PostgreSQL keeps them out of its log (UNLOGGED).
live = Table(
    "live",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("tick", BigInteger, nullable=False),
    Column("phase", Json),
    Column("progress", Json),
    Column("updated_at", Instant, nullable=False),
)

previews = Table(
    "previews",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("idx", Integer, primary_key=True),  # 0 is overwritten for ever, unless a count was promised
    Column("tick", BigInteger, nullable=False),
    Column("body", Json, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

watchers = Table(
    "watchers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job_id", Text, nullable=False, index=True),  # whose previews, or in words of journal.py whose steps
    Column("expires_at", Instant, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_started", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("beat", Integer, nullable=False),
    Column("solo", Boolean, nullable=False, server_default=true()),  # works only the jobs it submitted itself
    Column("models", Json, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("loaded", Json),  # what it drew last on each of its devices
    Column("places", Json),  # by device: the models it draws there
    Column("troubled", Text),  # why it begins nothing now, although it lives
    Column("storage", Text),  # where it stores pictures: a bucket's address, or a folder's path
    Column("lacks", Json),  # by model that it knows and cannot draw now: where it would, and why it cannot
)

slots = Table(
    "slots",
    metadata,
    Column("device", Text, primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("job_id", Text),
    Column("attempt", Integer),
    Column("vram_mib", Integer),  # what that job holds of a card that is shared; empty: all of it
    # The same in every slot of a device.
    Column("paused", Json),  # why nothing is begun there, and who said so
    Column("paused_until", Instant),  # when that ends by itself
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body_hash", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("hash", Text, nullable=False, unique=True),
    Column("admin", Boolean, nullable=False, server_default=false()),
    Column("created_at", Instant, nullable=False),
)

# What jobs of one model share: the graph that its engine fills in, kept once under its digest, never changed.
templates = Table(
    "templates",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("graph", Json, nullable=False),
)

# One row for each thing that somebody said of two pictures; the models are as they were when the vote was cast.
votes = Table(
    "votes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("series_id", Text, ForeignKey(series.c.id), nullable=False),
    Column("voter", Text, nullable=False),
    Column("pair", Text, nullable=False),  # both pictures, whichever side they were on
    Column("round", Integer, nullable=False),
    Column("left_image", Text, nullable=False),
    Column("right_image", Text, nullable=False),
    Column("left_model", Text, nullable=False),
    Column("right_model", Text, nullable=False),
    Column("choice", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("series_id", "voter", "pair", "round"),
    CheckConstraint("choice in ('left', 'right', 'tie', 'skip')", name="choice"),
)

# One row for each end that a webhook is told of. The trigger `jobs_ended` writes it, in the transaction of that end.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),  # that of the job; of a series, with the number of the ending behind it
    Column("job_id", Text, ForeignKey(jobs.c.id, ondelete="CASCADE"), index=True),
    Column("series_id", Text, ForeignKey(series.c.id, ondelete="CASCADE"), index=True),
    Column("type", Text, nullable=False),
    Column("at", Instant, nullable=False, server_default=now()),
    Column("state", Text, nullable=False, server_default=text("'waiting'")),
    Column("host", Text),  # whom it goes to; empty until somebody looked whether anybody wants it
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("since", Instant, nullable=False, server_default=now()),  # when trying began
    Column("due_at", Instant, nullable=False, server_default=now()),
    Column("status", Integer),
    Column("said", Text),
    Column("ended_at", Instant),
    CheckConstraint("state in ('waiting', 'delivered', 'failed')", name="state"),
    Index("ix_deliveries_open", "state", "due_at", sqlite_where=text("state <> 'delivered'")),
)

is_open = deliveries.c.state != literal_column("'delivered'")

# What this database signs with where the settings say nothing.
secrets = Table(
    "secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
)

-- The journal. Times are Unix seconds. States are the numbers of liveloop.v1.FeedbackState.

-- Who may write: one holder at a time, told apart by the epoch.
CREATE TABLE IF NOT EXISTS lease (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  epoch INTEGER NOT NULL,
  holder TEXT NOT NULL,
  deadline REAL NOT NULL
);
INSERT OR IGNORE INTO lease VALUES (1, 0, '', 0);

-- The next position to read of each partition, and the time up to which it has been read.
CREATE TABLE IF NOT EXISTS positions (
  partition INTEGER PRIMARY KEY,
  position INTEGER NOT NULL,
  read_until REAL NOT NULL
);

-- The join store. A prediction that was judged stays for `history`, another for the feedback window. UUIDv7 keys are in order of time;
-- those of labelled rows, `example:` and an id, come after them all.
CREATE TABLE IF NOT EXISTS predictions (
  prediction_id TEXT PRIMARY KEY,
  text TEXT NOT NULL,
  label TEXT NOT NULL,
  version INTEGER NOT NULL,
  score REAL NOT NULL,
  propensity REAL NOT NULL,
  created_at REAL NOT NULL,
  channel INTEGER NOT NULL,          -- a number of liveloop.v1.Channel
  asker BLOB NOT NULL,               -- keyed hash
  not_shown INTEGER NOT NULL         -- 1: perhaps nobody saw it
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS predictions_by_asker ON predictions (asker);
CREATE INDEX IF NOT EXISTS examples_by_time ON predictions (created_at, prediction_id) WHERE prediction_id >= 'example:';

-- Every feedback that was accepted, and what became of it; it goes when it is older than `history` and nothing younger names it. An id is
-- never given again: rows name what was erased by it alone.
CREATE TABLE IF NOT EXISTS feedback (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  prediction_id TEXT NOT NULL,
  feedback_id TEXT NOT NULL,
  judge BLOB NOT NULL,               -- keyed hash; empty: the default reward
  accepted_at REAL NOT NULL,
  signal TEXT NOT NULL,              -- up, down, rating, correction, retraction
  rating REAL,
  label TEXT,                        -- of a correction
  source INTEGER NOT NULL,           -- a number of liveloop.v1.Source
  client TEXT NOT NULL,              -- the API client that vouched for it
  reasons TEXT NOT NULL,             -- JSON: a list of labels
  comment TEXT NOT NULL,
  traceparent TEXT NOT NULL,         -- W3C trace context of the call that brought it; empty where there was none
  state INTEGER NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  row INTEGER NOT NULL DEFAULT 0,    -- the journal row that introduced it
  version INTEGER NOT NULL DEFAULT 0,-- the first version that includes it
  served_at REAL,
  uses INTEGER NOT NULL DEFAULT 0,   -- steps it took part in since it was last introduced, replays included
  last_row INTEGER NOT NULL DEFAULT 0, -- the newest journal row that names it, replays included
  returned INTEGER NOT NULL DEFAULT 0, -- it was given back once after a refusal
  agreement REAL,                    -- the probability, as of the answer, that what its judge says is right; none: nothing learnt it yet
  standing REAL NOT NULL DEFAULT 1,  -- what its judge's standing left of its weight when it was first learnt from
  consolidations INTEGER NOT NULL DEFAULT 0, -- consolidating steps it took part in; at most two, undone ones included
  UNIQUE (prediction_id, feedback_id)
);
CREATE INDEX IF NOT EXISTS feedback_by_state ON feedback (state, id);
CREATE INDEX IF NOT EXISTS feedback_by_judge ON feedback (judge);
CREATE INDEX IF NOT EXISTS feedback_by_version ON feedback (version);
CREATE INDEX IF NOT EXISTS feedback_by_people ON feedback (id)
  WHERE judge != x'' AND source NOT IN (2, 3) AND prediction_id < 'example:';
CREATE INDEX IF NOT EXISTS feedback_for_replay ON feedback (id) WHERE uses = 1 AND state IN (3, 4);
CREATE INDEX IF NOT EXISTS feedback_to_consolidate ON feedback (id) WHERE consolidations < 2 AND state IN (3, 4);

-- Every step and every decision, in order; never changed.
CREATE TABLE IF NOT EXISTS rows (
  row INTEGER PRIMARY KEY,
  kind TEXT NOT NULL,                -- init, train, settle, consolidate, reset, rebase, note
  epoch INTEGER NOT NULL,
  version INTEGER,                   -- the version it made; none for a note
  body TEXT NOT NULL,                -- JSON: what went in
  recipe TEXT NOT NULL,              -- digest of the recipe it was made with
  state_digest BLOB,                 -- of the served state it left
  created_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS rows_by_kind ON rows (kind, created_at);
CREATE UNIQUE INDEX IF NOT EXISTS rows_by_version ON rows (version) WHERE version IS NOT NULL;
CREATE INDEX IF NOT EXISTS rows_of_pauses ON rows (row) WHERE kind = 'note' AND json_extract(body, '$.decision') IN ('pause', 'resume');

-- Recipes by digest, stored whole when they change.
CREATE TABLE IF NOT EXISTS recipes (
  digest TEXT PRIMARY KEY,
  body TEXT NOT NULL
);

-- What was published.
CREATE TABLE IF NOT EXISTS versions (
  version INTEGER PRIMARY KEY,
  parent INTEGER NOT NULL,
  manifest TEXT NOT NULL,
  patch_bytes INTEGER NOT NULL,
  signer TEXT NOT NULL,              -- digest of the key that signed it, blake3 in hex
  blessed_at REAL                    -- when it became the blessed version; none: it never did
);
CREATE INDEX IF NOT EXISTS versions_by_blessing ON versions (blessed_at) WHERE blessed_at IS NOT NULL;

-- What the full evaluation of a version found, published or not.
CREATE TABLE IF NOT EXISTS evaluations (
  version INTEGER PRIMARY KEY,
  scores TEXT NOT NULL,              -- JSON: {split: {accuracy, rows}}
  passed INTEGER NOT NULL,           -- 1: it was less than a point below every other contestant
  why TEXT NOT NULL,                 -- how it compared, for people
  evaluated_at REAL NOT NULL
);

-- Versions that an operator keeps, however old.
CREATE TABLE IF NOT EXISTS pins (
  version INTEGER PRIMARY KEY
);

-- The last report of each pod.
CREATE TABLE IF NOT EXISTS pods (
  pod TEXT PRIMARY KEY,
  version INTEGER NOT NULL,
  blessed INTEGER NOT NULL,          -- the version that it serves beside it to those outside the canary; 0 where there is none
  reported_at REAL NOT NULL
);

-- What pods computed for each channel between two reports, while there is a canary.
CREATE TABLE IF NOT EXISTS work (
  pod TEXT NOT NULL,
  reported_at REAL NOT NULL,
  channel INTEGER NOT NULL,
  version INTEGER NOT NULL,
  answered INTEGER NOT NULL,         -- inputs
  failed INTEGER NOT NULL,           -- inputs that could not be computed
  batches INTEGER NOT NULL,
  seconds REAL NOT NULL,             -- of computing those answered
  PRIMARY KEY (reported_at, pod, channel, version)
) WITHOUT ROWID;

-- Whom to forget, by keyed hash: nothing of theirs is taken in again.
CREATE TABLE IF NOT EXISTS exclusions (
  judge BLOB PRIMARY KEY,
  row INTEGER NOT NULL               -- the note that ordered it
) WITHOUT ROWID;

-- Records of the log that could not be read, byte for byte.
CREATE TABLE IF NOT EXISTS dead_letters (
  id INTEGER PRIMARY KEY AUTOINCREMENT, -- so that none is given twice
  partition INTEGER NOT NULL,
  position INTEGER NOT NULL,
  reason TEXT NOT NULL,
  content BLOB NOT NULL,
  set_aside_at REAL NOT NULL
);

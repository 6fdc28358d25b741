PRAGMA user_version=1;
PRAGMA journal_mode=WAL;
BEGIN TRANSACTION;
CREATE TABLE digests (
    datastore TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, md5 BLOB NOT NULL,
    PRIMARY KEY (datastore, name)
) WITHOUT ROWID;
CREATE TABLE earlier_parameters (run TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (run, name)) WITHOUT ROWID;
INSERT INTO "earlier_parameters" VALUES('first','lr');
CREATE TABLE metrics (
    run TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, time INTEGER NOT NULL, value REAL
);
INSERT INTO "metrics" VALUES('first','loss',0,1772366400000,1.0);
INSERT INTO "metrics" VALUES('first','loss',1,1772366400001,0.5);
INSERT INTO "metrics" VALUES('first','loss',2,1772366400002,3.33333333333333314829e-01);
INSERT INTO "metrics" VALUES('first','accuracy',0,1772366400000,NULL);
INSERT INTO "metrics" VALUES('second','loss',0,1772366400000,0.5);
INSERT INTO "metrics" VALUES('second','loss',0,1772366399995,0.25);
INSERT INTO "metrics" VALUES('first','loss',1,1772366400009,0.125);
INSERT INTO "metrics" VALUES('first','loss',2,1772366400010,0.0625);
CREATE TABLE parameters (
    run TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, name)
) WITHOUT ROWID;
INSERT INTO "parameters" VALUES('first','lr','0.1');
CREATE TABLE runs (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, parent TEXT, experiment TEXT NOT NULL, display_name TEXT NOT NULL,
    description TEXT NOT NULL, command TEXT NOT NULL, folder TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
    exit_code INTEGER, created INTEGER NOT NULL, started INTEGER, ended INTEGER
);
INSERT INTO "runs" VALUES('first','first',NULL,'e','','','python train.py','','Queued','',NULL,1795816935268,NULL,NULL);
INSERT INTO "runs" VALUES('second','second',NULL,'e','','','python train.py','','Queued','',NULL,1795816935312,NULL,NULL);
CREATE TABLE tags (
    run TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, name)
) WITHOUT ROWID;
INSERT INTO "tags" VALUES('first','himl.tries','[4]');
INSERT INTO "tags" VALUES('first','note','of the old himl');
CREATE INDEX runs_by_time ON runs (created, id);
CREATE INDEX runs_by_experiment ON runs (experiment, created);
CREATE INDEX runs_by_parent ON runs (parent);
CREATE INDEX runs_open ON runs (job) WHERE ended IS NULL;
CREATE INDEX metrics_by_step ON metrics (run, name, step, time);
COMMIT;

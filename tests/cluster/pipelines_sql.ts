/**
 * The statements of the pipeline fuzzer. They work on a handful of objects, so that what one of them
 * does is seen, or missed, by the next, wherever that runs. `$W` becomes the worker's number: the
 * names of prepared transactions belong to the server and not to the database.
 */

/** Made once in each database. */
export const setUp: readonly string[] = [
  "CREATE TABLE t (n int PRIMARY KEY, v text)",
  "CREATE TABLE u (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
  "CREATE TABLE made (a int)",
  "CREATE SEQUENCE s",
  "CREATE VIEW tv AS SELECT n, v FROM t WHERE n > 2",
  `CREATE FUNCTION noisy(n int) RETURNS int STABLE LANGUAGE plpgsql AS
     $$BEGIN RAISE NOTICE 'noisy %', n; RETURN n; END$$`,
  `CREATE FUNCTION fails(n int) RETURNS int STABLE LANGUAGE plpgsql AS
     $$BEGIN RAISE EXCEPTION 'fails %', n USING HINT = 'none', DETAIL = 'all', ERRCODE = 'AB123'; END$$`,
  `CREATE FUNCTION writer(n int) RETURNS int VOLATILE LANGUAGE plpgsql AS
     $$BEGIN INSERT INTO t VALUES (100 + n, 'writer') ON CONFLICT DO NOTHING; RETURN n; END$$`,
  `CREATE PROCEDURE pr(n int) LANGUAGE plpgsql AS
     $$BEGIN INSERT INTO t VALUES (200 + n, 'pr') ON CONFLICT DO NOTHING; COMMIT; END$$`,
];

/** Puts everything back for the next sequence: the answers to these are compared as well. */
export const putBack: readonly string[] = [
  "ROLLBACK PREPARED 'g$W'",
  "DISCARD ALL",
  "DROP TABLE IF EXISTS made",
  `CREATE TABLE made (a int); CREATE OR REPLACE VIEW tv AS SELECT n, v FROM t WHERE n > 2; DELETE FROM t; DELETE FROM u;
   INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 5) g; SELECT setval('s', 1, false)`,
];

/**
 * Not here, because it shows one node's own state, or its role: pg_prepared_statements, pg_cursors,
 * transaction_read_only, the last_value of a sequence (a standby is ahead by what is preallocated).
 */
export const reads: readonly string[] = [
  "SELECT 1",
  "SELECT count(*) FROM t",
  "SELECT n, v FROM t ORDER BY n",
  "SELECT n FROM t WHERE n > 2 ORDER BY n",
  "SELECT generate_series(1, 5) AS g",
  "SELECT noisy(1), v FROM t ORDER BY n LIMIT 2",
  "SELECT * FROM tv ORDER BY 1",
  "VALUES (1, 'a'), (2, NULL)",
  "WITH x AS (SELECT n FROM t WHERE n < 3) SELECT n FROM x ORDER BY n",
  "SELECT n FROM u ORDER BY n",
  "SELECT a FROM made",
  "SELECT * FROM made",
  "SELECT n FROM tmp",
  "SELECT 'tmp'::regclass",
  "SELECT 1.1::float8 / 3, DATE '2024-02-29', TIMESTAMPTZ '2024-02-29 12:00+00', '\\x01'::bytea",
  "SELECT 'c\\d', E'a\\\\b'",
  "SELECT currval('s')",
  "SELECT relkind FROM pg_class WHERE relname = 'tmp'",
  "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()",
  "SELECT pg_listening_channels()",
  "SELECT n FROM t ORDER BY n FOR UPDATE",
  "EXPLAIN (COSTS OFF) SELECT n FROM t",
  "SELECT current_setting('extra_float_digits')",
  "SELECT current_setting('search_path'), current_user",
  "SELECT g, repeat('x', 2000) FROM generate_series(1, 50) g",
  "/* a comment */ SELECT 'commented' -- and another",
  "(SELECT 1) UNION ALL (SELECT 2)",
];

/** Each with one parameter, of which PostgreSQL finds the type. */
export const withParameter: readonly string[] = [
  "SELECT $1::int + 1",
  "SELECT 10 / $1::int",
  "SELECT n, v FROM t WHERE n >= $1 ORDER BY n",
  "SELECT generate_series(1, $1)",
  "INSERT INTO t VALUES ($1, 'p') RETURNING n",
  "UPDATE t SET v = $1 WHERE n = 1",
  "DELETE FROM t WHERE n = $1",
  "SELECT $1::text",
];

export const failures: readonly string[] = [
  "SELECT 1/0",
  "SELCT 1",
  "SELECT * FROM missing",
  "SELECT fails(1)",
  "SELECT n, 1 / (n - 3) FROM t ORDER BY n",
  "INSERT INTO t VALUES (1, 'twice')",
  "SELECT 'x'::int",
  "SELECT n FROM t WHERE",
  "SELECT missing(1)",
  "INSERT INTO missing VALUES (1)",
  "SELECT 1; SELCT 2",
  "SELECT 'not closed",
];

export const writes: readonly string[] = [
  "INSERT INTO t VALUES (10, 'w') ON CONFLICT DO NOTHING",
  "INSERT INTO t SELECT max(n) + 1, 'x' FROM t RETURNING n",
  "UPDATE t SET v = v || 'u' WHERE n = 1 RETURNING n, v",
  "DELETE FROM t WHERE n = 2",
  "SELECT nextval('s')",
  "SELECT writer(1)",
  "INSERT INTO u VALUES (1)",
  "INSERT INTO u VALUES (2)",
  "WITH d AS (DELETE FROM t WHERE n = 5 RETURNING n) SELECT n FROM d",
  "INSERT INTO made VALUES (1)",
  "DO $$BEGIN RAISE NOTICE 'done'; INSERT INTO t VALUES (30, 'do') ON CONFLICT DO NOTHING; END$$",
  "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) DELETE FROM t WHERE n = 4",
  "MERGE INTO t USING (VALUES (4)) m(k) ON n = k WHEN MATCHED THEN UPDATE SET v = 'm'",
];

export const temporaries: readonly string[] = [
  "CREATE TEMP TABLE tmp (n int)",
  "CREATE TEMP TABLE tmp ON COMMIT DROP AS SELECT 7 AS n",
  "SELECT 8 AS n INTO TEMP tmp",
  "INSERT INTO tmp VALUES (1)",
  "DROP TABLE IF EXISTS tmp",
  "CREATE TEMP TABLE t AS SELECT 0 AS n, 'hidden' AS v",
  "DISCARD TEMP",
];

export const boundaries: readonly string[] = [
  "BEGIN",
  "BEGIN",
  "START TRANSACTION",
  "BEGIN READ ONLY",
  "BEGIN READ WRITE",
  "BEGIN ISOLATION LEVEL SERIALIZABLE",
  "BEGIN ISOLATION LEVEL REPEATABLE READ",
  "COMMIT",
  "COMMIT",
  "END",
  "ROLLBACK",
  "ROLLBACK",
  "COMMIT AND CHAIN",
  "ROLLBACK AND CHAIN",
  "SAVEPOINT a",
  "SAVEPOINT b",
  "ROLLBACK TO a",
  "RELEASE a",
  "ROLLBACK TO SAVEPOINT b",
  "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
  "SET TRANSACTION READ ONLY",
  "SET CONSTRAINTS ALL IMMEDIATE",
];

export const alone: readonly string[] = [
  "PREPARE TRANSACTION 'g$W'",
  "DISCARD ALL",
  "CALL pr(1)",
  "COMMIT PREPARED 'g$W'",
  "ROLLBACK PREPARED 'g$W'",
];

export const settings: readonly string[] = [
  "SET application_name = 'one'",
  "SET application_name = 'two'",
  "SET DateStyle = 'SQL, DMY'",
  "SET TimeZone = 'Asia/Tokyo'",
  "SET extra_float_digits = 0",
  "SET bytea_output = 'escape'",
  "SET standard_conforming_strings = off",
  "SET standard_conforming_strings = on",
  "SET search_path = pg_catalog",
  "SET LOCAL extra_float_digits = -3",
  "SET LOCAL search_path = public, pg_catalog",
  "SET default_transaction_read_only = on",
  "SET default_transaction_isolation = 'repeatable read'",
  "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
  "SET client_min_messages = 'error'",
  "SET ROLE pg_read_all_data",
  "SELECT set_config('extra_float_digits', '1', false)",
  "SELECT set_config('TimeZone', 'Asia/Tokyo', true)",
  "SET application_name = 'three'; SELECT 1",
  "RESET ROLE",
  "RESET ALL",
  "RESET application_name",
  "SET no.such = 'x'",
  "SET no_such = 'x'",
  "SET extra_float_digits = 'wrong'",
  "SHOW DateStyle",
  "SHOW transaction_isolation",
  "SHOW application_name",
  "SHOW ALL_MISSING",
];

export const prepared: readonly string[] = [
  "PREPARE s1 AS SELECT n FROM t ORDER BY n",
  "PREPARE s2 AS INSERT INTO t SELECT max(n) + 1, 'q' FROM t RETURNING n",
  "PREPARE s3 (int) AS SELECT 10 / $1",
  "EXECUTE s1",
  "EXECUTE s2",
  "EXECUTE s3 (2)",
  "EXECUTE s3 (0)",
  "DEALLOCATE s1",
  "DEALLOCATE s2",
  "DEALLOCATE ALL",
  "DISCARD PLANS",
  "EXPLAIN (COSTS OFF) EXECUTE s1",
  "CREATE TEMP TABLE tmp AS EXECUTE s1",
];

export const cursors: readonly string[] = [
  "DECLARE c CURSOR FOR SELECT n FROM t ORDER BY n",
  "DECLARE c CURSOR WITH HOLD FOR SELECT n FROM t ORDER BY n",
  "DECLARE d SCROLL CURSOR FOR SELECT generate_series(1, 4) AS g",
  "FETCH 2 FROM c",
  "FETCH ALL FROM c",
  "FETCH BACKWARD 1 FROM d",
  "MOVE 1 IN d",
  "FETCH 1 FROM p1",
  "CLOSE c",
  "CLOSE p1",
  "CLOSE ALL",
];

export const others: readonly string[] = [
  "",
  "  ;  ",
  "-- nothing",
  "COPY (SELECT n, v FROM t ORDER BY n) TO STDOUT",
  "COPY (SELECT n FROM t ORDER BY n) TO STDOUT",
  "COPY tmp TO STDOUT",
  "COPY missing TO STDOUT",
  "LISTEN c",
  "NOTIFY c, 'payload'",
  "SELECT pg_notify('c', 'by function')",
  "UNLISTEN *",
  "LOCK TABLE t IN SHARE MODE",
];

export const several: readonly string[] = [
  "SELECT 1; INSERT INTO t VALUES (40, 'm') ON CONFLICT DO NOTHING",
  "SELECT n FROM t ORDER BY n; SELECT 2",
  "INSERT INTO t VALUES (41, 'm'); SELECT 1/0",
  "BEGIN; SELECT n FROM t ORDER BY n",
  "BEGIN; INSERT INTO t VALUES (42, 'm'); COMMIT",
  "BEGIN; INSERT INTO t VALUES (43, 'm')",
  "SELECT 1; COMMIT",
  "COMMIT; BEGIN; SELECT 1",
  "INSERT INTO t VALUES (44, 'm'); COMMIT; SELECT 1/0",
  "ROLLBACK; SELECT count(*) FROM t",
  "SET extra_float_digits = 0; SET DateStyle = 'German'",
  "SAVEPOINT a; SELECT 1/0",
  "PREPARE s1 AS SELECT 1; EXECUTE s1",
  "SELECT 1; PREPARE s2 AS SELECT 2",
  "DECLARE c CURSOR FOR SELECT 1; FETCH c",
  "SELECT 1;; SELECT 2;",
  "CREATE TEMP TABLE tmp (n int); SELECT n FROM tmp",
  "LISTEN c; NOTIFY c",
  "COPY (SELECT 1) TO STDOUT; SELECT 2",
  "SELECT 1; DEALLOCATE ALL",
  "DEALLOCATE s1; SELECT 1/0",
  "SELECT n FROM t ORDER BY n; DEALLOCATE s2",
  "DEALLOCATE ALL; PREPARE s1 AS SELECT 3; EXECUTE s1",
  "SELECT 1; DISCARD ALL",
];

/** Locks that a transaction of ours might hold on the standby must be gone before these. */
export const definitions: readonly string[] = [
  "ALTER TABLE made ADD b int",
  "DROP TABLE made",
  "CREATE TABLE made (a int, c text)",
  "ALTER TABLE made RENAME a TO z",
  "CREATE OR REPLACE VIEW tv AS SELECT n, v FROM t WHERE n > 1",
  "DROP VIEW missing",
];

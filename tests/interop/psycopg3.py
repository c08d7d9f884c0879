"""The script of the driver tests for psycopg 3. Where to connect is in libpq's environment."""

import threading

import psycopg
from psycopg.types.json import Jsonb

from transcript import fails, numbers, say

Error = psycopg.Error


def types(conn):
    sql = """SELECT 1 AS i, 9007199254740993::int8, 1.50::numeric, NULL, true, '{1,2,NULL}'::int[],
        '{"k": [1]}'::jsonb, '\\x00ff'::bytea, '2020-02-29 12:00:00+00'::timestamptz"""
    say("types", conn.execute(sql).fetchall())
    say("binary", conn.cursor(binary=True).execute(sql).fetchall())
    row = conn.execute("SELECT %s::text, %b::int, %s::jsonb", ("\u20ac", 7, Jsonb([1]))).fetchone()
    say("parameters", row)
    cursor = conn.execute("SELECT 1 AS a; SELECT 2 AS b")
    say("several statements", (cursor.fetchall(), cursor.nextset(), cursor.fetchall()))
    say("description", [(c.name, c.type_code) for c in conn.execute(sql).description])
    say("encoding", (conn.info.encoding, conn.info.server_version, conn.info.parameter_status("DateStyle")))
    conn.execute("SET DateStyle TO 'SQL, DMY'")
    say("reported", conn.info.parameter_status("DateStyle"))
    conn.execute("RESET DateStyle")


def errors(conn):
    fails("syntax", Error, lambda: conn.execute("SELEKT 1"))
    fails("division", Error, lambda: conn.execute("SELECT 1 / %s::int", (0,)))
    fails("table", Error, lambda: conn.execute("SELECT * FROM no_such_table"))
    conn.add_notice_handler(lambda d: say("notice", (d.severity, d.message_primary)))
    conn.execute("DO $$ BEGIN RAISE NOTICE 'by the way'; RAISE WARNING 'careful'; END $$")
    say("alive", conn.execute("SELECT 'still here'").fetchone())


def transactions(conn):
    conn.execute("DROP TABLE IF EXISTS psycopg3")
    conn.execute("CREATE TABLE psycopg3 (id int PRIMARY KEY, v text)")
    with conn.transaction():
        conn.execute("INSERT INTO psycopg3 VALUES (1, 'one'), (2, 'two')")

        def duplicate():
            with conn.transaction():
                conn.execute("INSERT INTO psycopg3 VALUES (1, 'again')")

        fails("savepoint", Error, duplicate)
        say("own write", conn.execute("SELECT * FROM psycopg3 ORDER BY id").fetchall())
    say("status", conn.info.transaction_status.name)
    conn.execute("BEGIN")
    fails("fails", Error, lambda: conn.execute("SELECT 1/0"))
    fails("aborted", Error, lambda: conn.execute("SELECT 1"))
    say("failed status", conn.info.transaction_status.name)
    say("commit of a failed one", conn.execute("COMMIT").statusmessage)


def prepared(conn):
    for i in range(8):
        row = conn.execute("SELECT v FROM psycopg3 WHERE id = %s", (i % 3,), prepare=True).fetchone()
        say(f"prepared {i}", row)
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO psycopg3 VALUES (%s, %s) RETURNING id",
            [(i, f"row {i}") for i in range(10, 30)],
            returning=True,
        )
        ids = [cursor.fetchone()]
        while cursor.nextset():
            ids.append(cursor.fetchone())
        say("executemany", ids)


def pipelines(conn):
    with conn.pipeline() as pipeline:
        cursors = [conn.execute("SELECT %s::int * 2", (i,)) for i in range(100)]
        pipeline.sync()
        say("pipeline", [cursor.fetchone() for cursor in cursors])
        inserted = conn.execute("INSERT INTO psycopg3 VALUES (50, 'piped') RETURNING v")
        read = conn.execute("SELECT v FROM psycopg3 WHERE id = 50")
        say("read after write", (inserted.fetchone(), read.fetchone()))

    def broken():
        with conn.pipeline():
            conn.execute("SELECT 'before'")
            conn.execute("SELECT 1 / 0")
            conn.execute("SELECT 'after'").fetchone()

    fails("error in a pipeline", Error, broken)
    say("alive after it", conn.execute("SELECT 1").fetchone())


def cursors(conn):
    with conn.transaction(), conn.cursor("named") as cursor:
        cursor.itersize = 70
        cursor.execute("SELECT i FROM generate_series(1, 500) i")
        say("server-side cursor", sum(row[0] for row in cursor))
    with conn.transaction(), conn.cursor("scrolled", scrollable=True) as cursor:
        cursor.execute("SELECT i FROM generate_series(1, 100) i")
        cursor.scroll(50)
        say("scrolled", (cursor.fetchmany(3), cursor.scroll(-10), cursor.fetchone()))


def copy(conn):
    with conn.cursor() as cursor:
        with cursor.copy("COPY psycopg3 FROM STDIN") as inward:
            inward.write(numbers(100, 5_100))
        say("copied", cursor.rowcount)
        with cursor.copy("COPY (SELECT * FROM psycopg3 ORDER BY id) TO STDOUT (FORMAT binary)") as out:
            say("binary copy", b"".join(bytes(block) for block in out))

        def nonsense():
            with cursor.copy("COPY psycopg3 FROM STDIN") as inward:
                inward.write("not a number\n")

        fails("nonsense", Error, nonsense)

        def gives_up():
            with cursor.copy("COPY psycopg3 FROM STDIN") as inward:
                inward.write(numbers(10_000, 10_100))
                raise ValueError("changed my mind")

        fails("given up", (Error, ValueError), gives_up)
    say("rows", conn.execute("SELECT count(*) FROM psycopg3").fetchone())


def large(conn):
    text = "0123456789" * 300_000
    say("three megabytes", conn.execute("SELECT %s::text", (text,)).fetchone())
    rows = conn.execute("SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i").fetchall()
    say("twenty thousand rows", rows)


def listen(conn):
    heard = []
    conn.add_notify_handler(heard.append)
    conn.execute("LISTEN news")
    conn.execute("NOTIFY news, 'extra, extra'")
    say("notification", [(n.channel, n.payload, n.pid > 0) for n in heard])


def cancel(conn):
    over = threading.Event()

    def insist():
        # The request may overtake the query, so it is repeated until the query has ended.
        while not over.wait(0.2):
            conn.cancel()

    thread = threading.Thread(target=insist)
    thread.start()
    fails("cancelled", Error, lambda: conn.execute("SELECT pg_sleep(600)"))
    over.set()
    thread.join()


with psycopg.connect(autocommit=True) as connection:
    for part in (types, errors, transactions, prepared, pipelines, cursors, copy, large, listen, cancel):
        part(connection)
with psycopg.connect() as connection:
    say("a second session", connection.execute("SELECT count(*) FROM psycopg3").fetchone())

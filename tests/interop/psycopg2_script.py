"""The script of the driver tests for psycopg 2. Where to connect is in libpq's environment."""

import io
import select
import threading

import psycopg2
import psycopg2.extras

from transcript import fails, numbers, say

Error = psycopg2.Error


def fetch(conn, sql, parameters=None):
    with conn.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else cursor.statusmessage


def types(conn):
    sql = """SELECT 1 AS i, 9007199254740993::int8, 1.50::numeric, NULL, true, '{1,2,NULL}'::int[],
        '{"k": [1]}'::jsonb, '2020-02-29 12:00:00+00'::timestamptz AT TIME ZONE 'UTC'"""
    say("types", fetch(conn, sql))
    say("parameters", fetch(conn, "SELECT %s, %s, %s", ("\u20ac", 7, [1, 2])))
    say("bytes", [bytes(v) for v in fetch(conn, "SELECT %s::bytea", (psycopg2.Binary(b"\0\xff"),))[0]])
    say("several statements", fetch(conn, "SELECT 1; SELECT 2"))
    say("status", (conn.encoding, conn.server_version, conn.get_parameter_status("DateStyle")))


def errors(conn):
    fails("syntax", Error, lambda: fetch(conn, "SELEKT 1"))
    fails("division", Error, lambda: fetch(conn, "SELECT 1/0"))
    fetch(conn, "DO $$ BEGIN RAISE NOTICE 'by the way'; END $$")
    say("notices", conn.notices)


def transactions(conn):
    fetch(conn, "DROP TABLE IF EXISTS psycopg2; CREATE TABLE psycopg2 (id int PRIMARY KEY, v text)")
    conn.autocommit = False
    fetch(conn, "INSERT INTO psycopg2 VALUES (1, 'one'), (2, 'two')")
    fetch(conn, "SAVEPOINT s")
    fails("duplicate", Error, lambda: fetch(conn, "INSERT INTO psycopg2 VALUES (1)"))
    fails("aborted", Error, lambda: fetch(conn, "SELECT 1"))
    fetch(conn, "ROLLBACK TO SAVEPOINT s")
    conn.commit()
    say("committed", fetch(conn, "SELECT * FROM psycopg2 ORDER BY id"))
    fetch(conn, "DELETE FROM psycopg2")
    conn.rollback()
    say("rolled back", fetch(conn, "SELECT count(*) FROM psycopg2"))
    conn.rollback()
    conn.autocommit = True


def cursors(conn):
    conn.autocommit = False
    with conn.cursor("named") as cursor:
        cursor.itersize = 70
        cursor.execute("SELECT i FROM generate_series(1, 500) i")
        say("server-side cursor", sum(row[0] for row in cursor))
    conn.commit()
    conn.autocommit = True
    with conn.cursor() as cursor:
        rows = [(i, f"row {i}") for i in range(10, 60)]
        psycopg2.extras.execute_values(cursor, "INSERT INTO psycopg2 VALUES %s", rows)
        psycopg2.extras.execute_batch(cursor, "UPDATE psycopg2 SET v = v || '!' WHERE id = %s", [(10,), (11,)])
    say("batches", fetch(conn, "SELECT v FROM psycopg2 WHERE id < 13 ORDER BY id"))


def copy(conn):
    with conn.cursor() as cursor:
        cursor.copy_expert("COPY psycopg2 FROM STDIN", io.StringIO(numbers(100, 5_100)))
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT * FROM psycopg2 ORDER BY id) TO STDOUT", out)
        say("copy", out.getvalue())
        bad = io.StringIO("not a number\n")
        fails("nonsense", Error, lambda: cursor.copy_expert("COPY psycopg2 FROM STDIN", bad))
    say("rows", fetch(conn, "SELECT count(*) FROM psycopg2"))


def large_objects(conn):
    """These go by FunctionCall, which hardly anything else speaks."""
    conn.autocommit = False
    written = conn.lobject(0, "wb")
    written.write(b"0123456789" * 50_000)
    written.close()
    conn.commit()
    read = conn.lobject(written.oid, "rb")
    say("large object", (read.seek(0, 2), read.seek(499_990), read.read()))
    read.unlink()
    conn.commit()
    conn.autocommit = True


def large(conn):
    text = "0123456789" * 300_000
    say("three megabytes", fetch(conn, "SELECT %s", (text,)))
    say("twenty thousand rows", fetch(conn, "SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i"))


def listen(conn):
    fetch(conn, "LISTEN news")
    fetch(conn, "NOTIFY news, 'extra, extra'")
    while not conn.notifies:
        select.select([conn], [], [], 10)
        conn.poll()
    notification = conn.notifies.pop()
    say("notification", (notification.channel, notification.payload, notification.pid > 0))


def cancel(conn):
    over = threading.Event()

    def insist():
        # The request may overtake the query, so it is repeated until the query has ended.
        while not over.wait(0.2):
            conn.cancel()

    thread = threading.Thread(target=insist)
    thread.start()
    fails("cancelled", Error, lambda: fetch(conn, "SELECT pg_sleep(600)"))
    over.set()
    thread.join()


connection = psycopg2.connect("")
connection.autocommit = True
for part in (types, errors, transactions, cursors, copy, large_objects, large, listen, cancel):
    part(connection)
connection.close()

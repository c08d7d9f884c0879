/** SQL for properties: right statements with constants of all sorts, and tokens in any order. */

import fc from "fast-check";

const quoted = fc.string({ maxLength: 12 }).map((text) => text.replaceAll("\0", ""));
const string = quoted.map((text) => `'${text.replaceAll("'", "''")}'`);

export const constant: fc.Arbitrary<string> = fc.oneof(
  fc.nat().map(String),
  fc.bigInt({ min: 0n, max: 10n ** 20n }).map(String),
  fc.double({ min: 0, max: 1e30, noNaN: true }).map(String),
  string,
  quoted.map((text) => `E'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`),
  quoted.map((text) => `$q$${text.replaceAll("$", "")}$q$`),
  fc.constantFrom("b'0101'", "X'1f'", "0x1F", "1_000", "1e5", ".5", "7.", "NULL", "true", "$1"),
  fc.tuple(string, string).map(([a, b]) => `${a}\n${b}`),
);

const list = fc.array(constant, { minLength: 1, maxLength: 7 }).map((items) => items.join(", "));
const row = fc.tuple(constant, constant).map(([a, b]) => `(${a},${b})`);
const rows = fc.oneof(
  fc.array(row, { minLength: 1, maxLength: 6 }).map((items) => items.join(",")),
  fc
    .tuple(row, fc.integer({ min: 1, max: 7 }))
    .map(([one, times]) => Array(times).fill(one).join(", ")),
);
const gap = fc.constantFrom(" ", "  ", "\n", " -- c 'x\n ", " /* 1, ' */ ", "\t");
const name = fc.constantFrom("t1", "pg_class", '"Mixed 1"', "s1.t2", "float");

const statement: fc.Arbitrary<string> = fc.oneof(
  fc.tuple(constant, name, list).map(([c, t, l]) => `SELECT ${c} FROM ${t} WHERE a IN (${l})`),
  fc.tuple(constant, constant).map(([a, b]) => `SELECT f(${a}) FROM t ORDER BY 1 LIMIT ${b}`),
  fc.tuple(name, rows).map(([t, r]) => `INSERT INTO ${t} VALUES ${r}`),
  fc.tuple(constant, constant).map(([a, b]) => `UPDATE t1 SET v = ${a} WHERE id = -${b}`),
  fc.tuple(list).map(([l]) => `WITH a AS (SELECT g(${l})) SELECT * FROM a FOR UPDATE`),
  fc.tuple(constant).map(([c]) => `SELECT x::varchar(${c}), y::float(${c})`),
  fc.tuple(list).map(([l]) => `SELECT nullif(${l}), (${l}) OVERLAPS (${l})`),
  fc.tuple(constant).map(([c]) => `SELECT interval ${c} AT TIME ZONE ${c}`),
  fc.tuple(constant).map(([c]) => `SELECT 1; SELECT ${c}`),
  fc.tuple(constant).map(([c]) => `EXPLAIN SELECT ${c}`),
  fc.tuple(constant).map(([c]) => `DELETE FROM t LIMIT ${c}`),
);

export const sqlWithConstants: fc.Arbitrary<string> = fc
  .tuple(gap, statement, gap)
  .map(([before, sql, between]) => before.trimStart() + sql.replaceAll(" ", between));

const token = fc.oneof(
  constant,
  name,
  fc.constantFrom(
    ..."SELECT FROM WHERE AND IN VALUES NOT INTERVAL AS LIMIT OFFSET UNION".split(" "),
  ),
  fc.constantFrom(..."( ) , ; + - * / . = <> :: [ ] @ ~ -- /* */ $ $a$ ' \" \\ E' U&'".split(" ")),
  fc.string({ maxLength: 3 }).map((text) => text.replaceAll("\0", "")),
);

export const sqlFromTokens: fc.Arbitrary<string> = fc
  .tuple(fc.array(token, { maxLength: 14 }), fc.constantFrom("", " ", "\n"))
  .map(([tokens, join]) => `SELECT ${tokens.join(join)}`);

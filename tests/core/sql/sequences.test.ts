/** What the sequences of tables have given, as it is asked and told; what becomes of it is tested live. */
import { expect, test } from "bun:test";
import { catchUpSql, readSequenceLevels, sequenceLevelsSql } from "../../../core/sql/sequences.ts";

test("levels are those that have given a number, named as SQL needs them", () => {
  const told =
    '[["public", "t_id_seq", "7"], ["A\\"b", "s", "-9223372036854775808"], ["x", "y", null]]';
  expect(readSequenceLevels(told)).toEqual([
    { name: '"public"."t_id_seq"', last: "7" },
    { name: '"A""b"."s"', last: "-9223372036854775808" },
  ]);
  for (const nothing of [null, undefined, "null", "[]", "{}"]) {
    expect(readSequenceLevels(nothing)).toEqual([]);
  }
});

test("names that need quotes keep them", () => {
  expect(sequenceLevelsSql([`"o'clock"."t"`])).toContain(`to_regclass('"o''clock"."t"')`);
  expect(catchUpSql([{ name: `"o'clock"."s"`, last: "7" }])).toContain(
    `(pg_catalog.to_regclass('"o''clock"."s"'), 7::pg_catalog.int8)`,
  );
});

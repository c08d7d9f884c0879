/** What the sequences of tables have given, as it is asked and told; what becomes of it is tested live. */
import { expect, test } from "bun:test";
import { catchUpSql, readSequenceLevels, sequenceLevelsSql } from "../../../core/sql/sequences.ts";

test("levels are those that have given a number, named as SQL needs them", () => {
  const told =
    '[["public", "t_id_seq", 1, true, "7"], ["A\\"b", "s", 1, true, "-9223372036854775808"], ["x", "y", 1, true, null], ["x", "z", 20, true, "40"], ["x", "w", 1, false, null]]';
  expect(readSequenceLevels(told)).toEqual({
    levels: [
      { name: '"public"."t_id_seq"', last: "7" },
      { name: '"A""b"."s"', last: "-9223372036854775808" },
    ],
    unsure: [
      'sequence "x"."z" gives 20 numbers at a time',
      'permission denied for sequence "x"."w"',
    ],
  });
  for (const nothing of [null, undefined, "null", "[]", "{}"]) {
    expect(readSequenceLevels(nothing)).toEqual({ levels: [], unsure: [] });
  }
});

test("names that need quotes keep them", () => {
  expect(sequenceLevelsSql([`"o'clock"."t"`])).toContain(`to_regclass('"o''clock"."t"')`);
  expect(catchUpSql([{ name: `"o'clock"."s"`, last: "7" }])).toContain(
    `(pg_catalog.to_regclass('"o''clock"."s"'), '7'::pg_catalog.int8)`,
  );
});

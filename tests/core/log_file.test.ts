import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { rotationDue, rotationTime, strftime } from "../../core/log_file.ts";
import { syslogLines, syslogPriority } from "../../core/syslog.ts";

const at = (hour: number, minute = 0, second = 0) =>
  new Date(2026, 10, 2, hour, minute, second).getTime();

describe("strftime", () => {
  test.each([
    ["pgpool-%Y-%m-%d_%H%M%S.log", "pgpool-2026-11-02_170509.log"],
    ["%F %T %R %D", "2026-11-02 17:05:09 17:05 11/02/26"],
    ["%a %A %b %B %e %j", "Mon Monday Nov November  2 306"],
    ["%I%p %u %w %C%y", "05PM 1 1 2026"],
    ["100%% %Q %", "100% %Q %"],
    ["plain", "plain"],
  ])("%s is %s", (pattern, expected) => expect(strftime(pattern, at(17, 5, 9))).toBe(expected));

  test("counts the hours of a clock face from 12", () => {
    expect([0, 1, 12, 13].map((hour) => strftime("%I%p", at(hour)))).toEqual([
      "12AM",
      "01AM",
      "12PM",
      "01PM",
    ]);
  });
});

describe("rotation by age", () => {
  const rules = (log_rotation_age: number) => ({ log_rotation_age, log_rotation_size: 0 });

  test.each([
    [60, at(17, 5), at(18)],
    [60, at(17), at(18)],
    [30, at(17, 29, 59), at(17, 30)],
    [1440, at(17, 5), new Date(2026, 10, 3).getTime()],
  ])("every %d minutes falls on whole multiples of local time", (age, now, next) =>
    expect(rotationTime(now, rules(age))).toBe(next),
  );

  test("is never when 0", () => expect(rotationTime(at(17), rules(0))).toBeUndefined());

  test("is always later than now, by the age at most", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 100_000 }), fc.nat(2 ** 41), (age, now) => {
        const next = rotationTime(now, rules(age)) ?? 0;
        expect(next).toBeGreaterThan(now);
        expect(next).toBeLessThanOrEqual(now + age * 60_000);
      }),
    );
  });
});

test("a file is full at its size, and old at its time", () => {
  const rules = { log_rotation_age: 60, log_rotation_size: 1 };
  const file = { rotateAt: at(18), sizeBytes: 1023 };
  expect(rotationDue(file, rules, at(17, 59))).toBeUndefined();
  expect(rotationDue({ ...file, sizeBytes: 1024 }, rules, at(17, 59))).toBe("size");
  expect(rotationDue(file, rules, at(18))).toBe("age");
  expect(
    rotationDue({ ...file, sizeBytes: 1e9 }, { ...rules, log_rotation_size: 0 }, 0),
  ).toBeUndefined();
});

describe("syslog", () => {
  test.each([
    ["LOCAL0", "DEBUG3", 135],
    ["LOCAL0", "LOG", 134],
    ["LOCAL0", "INFO", 134],
    ["LOCAL0", "WARNING", 133],
    ["LOCAL0", "ERROR", 132],
    ["LOCAL0", "FATAL", 131],
    ["LOCAL7", "PANIC", 186],
  ] as const)("%s %s is priority %d", (facility, severity, priority) =>
    expect(syslogPriority(facility, severity)).toBe(priority),
  );

  test("numbers messages, and the lines of long ones", () => {
    expect(syslogLines(7, "one line")).toEqual(["[7] one line"]);
    expect(syslogLines(8, "two\n\nlines")).toEqual(["[8-1] two", "[8-2] lines"]);
    const long = `${"word ".repeat(200)}end`;
    const lines = syslogLines(9, long);
    expect(lines).toHaveLength(2);
    expect(lines[0]).toBe(`[9-1] ${"word ".repeat(180).trimEnd()}`);
  });

  test("loses no word and has no line too long", () => {
    const words = fc.array(fc.stringMatching(/^[a-zé]{1,80}$/), { minLength: 1, maxLength: 200 });
    fc.assert(
      fc.property(words, (words) => {
        const lines = syslogLines(1, words.join(" ")).map((line) => line.replace(/^\S+ /, ""));
        expect(lines.join(" ").split(" ")).toEqual(words);
        expect(lines.every((line) => Buffer.byteLength(line) <= 900)).toBe(true);
      }),
    );
  });
});

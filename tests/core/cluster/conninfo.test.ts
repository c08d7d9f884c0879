import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { formatConninfo, parseConninfo, redirected } from "../../../core/cluster/conninfo.ts";

describe("a connection string", () => {
  const rows: readonly [string, { readonly [keyword: string]: string } | undefined][] = [
    ["host=a port=5432", { host: "a", port: "5432" }],
    ["  host = a   port=5432  ", { host: "a", port: "5432" }],
    ["password='it\\'s \\\\ here' user=r", { password: "it's \\ here", user: "r" }],
    ["application_name='' host=b", { application_name: "", host: "b" }],
    ["host=a\\ b", { host: "a b" }],
    ["host=a host=b", { host: "b" }],
    ["", {}],
    ["host", undefined],
    ["host='a", undefined],
    ["host='a'b", undefined],
    [
      "postgresql://rep:s%40c@h1:5433/db?sslmode=require&application_name=n1",
      {
        user: "rep",
        password: "s@c",
        host: "h1",
        port: "5433",
        dbname: "db",
        sslmode: "require",
        application_name: "n1",
      },
    ],
    ["postgres://h", { host: "h" }],
    ["postgres://[::1]:7/", { host: "::1", port: "7" }],
    ["postgresql:///db?host=/run/pg", { dbname: "db", host: "/run/pg" }],
    ["postgres://h/%zz", undefined],
  ];
  test.each(rows)("%p", (text, expected) => {
    const wanted = expected && new Map(Object.entries(expected));
    expect(parseConninfo(text)).toEqual(wanted);
  });

  test("keeps every value through writing and reading", () => {
    const keyword = fc.stringMatching(/^[a-z_]{1,12}$/);
    const pairs = fc.uniqueArray(fc.tuple(keyword, fc.string()), { selector: ([name]) => name });
    fc.assert(
      fc.property(pairs, (entries) => {
        const conninfo = new Map(entries);
        expect(parseConninfo(formatConninfo(conninfo))).toEqual(conninfo);
      }),
    );
  });

  test("is led elsewhere with all that it said besides", () => {
    const before = parseConninfo("user=r host=old hostaddr=10.0.0.1 port=1 application_name=s1");
    const after = redirected(before ?? new Map(), "new", 2);
    expect(formatConninfo(after)).toBe("user=r host=new port=2 application_name=s1");
  });
});

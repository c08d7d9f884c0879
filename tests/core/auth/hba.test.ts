import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type HbaFile, parseHba } from "../../../core/auth/hba.ts";
import {
  type HbaClient,
  type HbaQuestion,
  hbaRefusal,
  matchHba,
  matchHbaWith,
} from "../../../core/auth/hba_match.ts";
import { isInRange, maskOfBits, parseIp } from "../../../core/auth/ip.ts";

const path = "/etc/pgpool/pool_hba.conf";

function parse(text: string, files: Record<string, string> = {}, tlsEnabled = true): HbaFile {
  const readFile = (name: string) => {
    const found = files[name];
    return found === undefined ? { reason: "No such file or directory" } : { text: found };
  };
  return parseHba(text, { path, readFile, tlsEnabled });
}

function rulesOf(text: string, files: Record<string, string> = {}) {
  const file = parse(text, files);
  if (!file.ok) throw new Error(file.messages.map((m) => m.message).join("; "));
  return file.rules;
}

const texts = (tokens: readonly { readonly text: string }[] | undefined) =>
  tokens?.map((token) => token.text);

const tcp: HbaClient = {
  peer: { kind: "tcp", address: "10.1.2.3" },
  tls: false,
  user: "bob",
  database: "sales",
  interfaces: [
    { address: "127.0.0.1", netmask: "255.0.0.0" },
    { address: "10.1.9.9", netmask: "255.255.0.0" },
    { address: "fe80::1", netmask: "ffff:ffff:ffff:ffff::" },
  ],
};
const unix: HbaClient = { ...tcp, peer: { kind: "unix" } };
const from = (address: string): HbaClient => ({ ...tcp, peer: { kind: "tcp", address } });

const unasked = (question: HbaQuestion): readonly string[] => {
  throw new Error(`nobody should ask ${question.kind}`);
};

/** The line of the rule that meets the client, 0 for none. */
function metBy(text: string, client: HbaClient, files: Record<string, string> = {}): number {
  const decision = matchHbaWith(rulesOf(text, files), client, unasked);
  return decision.kind === "rule" ? decision.rule.line : 0;
}

describe("parseHba reads", () => {
  const lines: [string, string, string[], string[]][] = [
    ["blanks and tabs", "local \t db\tuser  trust", ["db"], ["user"]],
    ["lists", "local a,b,c u,v trust", ["a", "b", "c"], ["u", "v"]],
    ["blanks after a comma", "local a, b u trust", ["a", "b"], ["u"]],
    ["quotes that hold blanks, commas and #", 'local "a b,c#d" u trust', ["a b,c#d"], ["u"]],
    ["a doubled quote", 'local "a""b" u trust', ['a"b'], ["u"]],
    ["quotes within a token", 'local a"b c"d u trust', ["ab cd"], ["u"]],
    ["a comment at the end", "local a u trust # all of it", ["a"], ["u"]],
    ["a comment without blank", "local a u trust#x", ["a"], ["u"]],
    ["a carriage return", "local a u trust\r", ["a"], ["u"]],
  ];
  test.each(lines)("%s", (_, line, databases, users) => {
    const [rule] = rulesOf(line);
    expect([texts(rule?.databases), texts(rule?.users)]).toEqual([databases, users]);
    expect(rule?.method).toBe("trust");
  });

  test("every method, and the line each rule stands on", () => {
    const methods = ["trust", "reject", "cert", "password", "md5", "scram-sha-256", "pam"];
    const rules = rulesOf(`# first\n\n${methods.map((m) => `local all all ${m}`).join("\n")}`);
    expect(rules.map((rule) => rule.method)).toEqual(methods as (typeof rules)[0]["method"][]);
    expect(rules.map((rule) => rule.line)).toEqual([3, 4, 5, 6, 7, 8, 9]);
  });

  test("included files, relative to the including one, nested and flattened", () => {
    const rules = rulesOf("local @dbs,last u trust", {
      "/etc/pgpool/dbs": "a b\n# comment\nc,@more/list",
      "/etc/pgpool/more/list": '"d e"\n',
    });
    expect(texts(rules[0]?.databases)).toEqual(["a", "b", "c", "d e", "last"]);
  });

  test("a quoted @ as a name", () => {
    expect(texts(rulesOf('local "@dbs" u trust')[0]?.databases)).toEqual(["@dbs"]);
  });

  test("options", () => {
    const [rule] = rulesOf("local all all pam pamservice=pgpool2 pam_use_hostname=1");
    expect([...(rule?.options ?? [])]).toEqual([
      ["pamservice", "pgpool2"],
      ["pam_use_hostname", "1"],
    ]);
  });
});

describe("parseHba refuses the whole file for", () => {
  const long = "x".repeat(256);
  const cases: [string, string, string][] = [
    ["several types", "local,host all all trust", "multiple values specified for connection type"],
    [
      "a type of PostgreSQL",
      "hostgssenc all all all trust",
      'invalid connection type "hostgssenc"',
    ],
    ["a type in capitals", "LOCAL all all trust", 'invalid connection type "LOCAL"'],
    ["no database", "local", "end-of-line before database specification"],
    ["no user", "local all", "end-of-line before role specification"],
    ["no address", "host all all", "end-of-line before IP address specification"],
    ["no mask", "host all all 10.0.0.1", "end-of-line before netmask specification"],
    ["no method", "local all all", "end-of-line before authentication method"],
    ["no method after a range", "host all all ::1/128", "end-of-line before authentication method"],
    ["several addresses", "host all all a,b trust", "multiple values specified for host address"],
    ["several masks", "host all all 10.0.0.1 a,b trust", "multiple values specified for netmask"],
    [
      "several methods",
      "local all all md5,trust",
      "multiple values specified for authentication type",
    ],
    ["a method of PostgreSQL", "local all all peer", 'invalid authentication method "peer"'],
    [
      "a mask as CIDR too long",
      "host all all 10.0.0.0/33 md5",
      'invalid CIDR mask in address "10.0.0.0/33"',
    ],
    ["an IPv6 mask too long", "host all all ::1/129 md5", 'invalid CIDR mask in address "::1/129"'],
    [
      "a mask that is no number",
      "host all all 10.0.0.0/x md5",
      'invalid CIDR mask in address "10.0.0.0/x"',
    ],
    ["an empty mask", "host all all 10.0.0.0/ md5", 'invalid CIDR mask in address "10.0.0.0/"'],
    [
      "a name with a mask",
      "host all all db.example/24 md5",
      'specifying both host name and CIDR mask is invalid: "db.example/24"',
    ],
    [
      "a mask that is no address",
      "host all all 10.0.0.1 md5",
      'invalid IP mask "md5": Name or service not known',
    ],
    ["mixed families", "host all all 10.0.0.1 ffff:: md5", "IP address and mask do not match"],
    [
      "an unknown option",
      "local all all md5 map=x",
      'unrecognized authentication option name: "map"',
    ],
    [
      "an option without =",
      "local all all md5 clientcert",
      "authentication option not in name=value format: clientcert",
    ],
    [
      "an ldap option elsewhere",
      "local all all md5 ldapserver=x",
      'authentication option "ldapserver" is only valid for authentication methods ldap',
    ],
    [
      "ldap without a way to bind",
      "local all all ldap ldapserver=x",
      'authentication method "ldap" requires argument "ldapbasedn", "ldapprefix", or "ldapsuffix" to be set',
    ],
    [
      "two ways to search",
      "local all all ldap ldapbasedn=dc=x ldapsearchattribute=uid ldapsearchfilter=(uid=$username)",
      "cannot use ldapsearchattribute together with ldapsearchfilter",
    ],
    [
      "a token that is too long",
      `local ${long} all trust`,
      `authentication file token too long, skipping: "${long.slice(1)}"`,
    ],
    [
      "a line that is too long",
      `local all all trust #${"x".repeat(8200)}`,
      "authentication file line too long",
    ],
  ];
  test.each(cases)("%s", (_, line, message) => {
    const file = parse(`local good good trust\n${line}`);
    expect(file.ok).toBe(false);
    expect(file.messages[0]).toMatchObject({
      message,
      context: `line 2 of configuration file "${path}"`,
    });
  });

  test("a missing included file", () => {
    const file = parse("local @dbs all trust");
    expect(file).toEqual({
      ok: false,
      messages: [
        {
          context: `line 1 of configuration file "${path}"`,
          fatal: true,
          message:
            'could not open secondary authentication file "@dbs" as "/etc/pgpool/dbs": No such file or directory',
        },
      ],
    });
  });

  test("a file that includes itself", () => {
    const file = parse("local @a all trust", { "/etc/pgpool/a": "@a" });
    expect(file.ok).toBe(false);
  });

  test("nothing in it", () => {
    expect(parse("# only a comment\n\n")).toMatchObject({
      ok: false,
      messages: [{ message: `configuration file "${path}" contains no entries` }],
    });
  });

  test("each of several faults, told all at once", () => {
    const file = parse("local all all peer\nfoo\nlocal all all trust");
    expect(file.messages.map((m) => m.message)).toEqual([
      'invalid authentication method "peer"',
      'invalid connection type "foo"',
    ]);
  });
});

describe("parseHba only remarks", () => {
  const cases: [string, string, string][] = [
    [
      "hostssl without TLS",
      "hostssl all all all trust",
      "hostssl record cannot match because SSL is disabled",
    ],
    [
      "a pam option elsewhere",
      "local all all md5 pamservice=x",
      'authentication option "pamservice" is only valid for authentication methods pam',
    ],
    [
      "groups",
      "local samerole +admins trust",
      'group token "samerole" is not supported and never matches',
    ],
  ];
  test.each(cases)("%s", (_, line, message) => {
    const file = parse(line, {}, false);
    expect(file.ok).toBe(true);
    expect(file.messages[0]).toMatchObject({ message, fatal: false });
  });
});

describe("matchHba", () => {
  const tls: HbaClient = { ...tcp, tls: true };
  const named = (database: string, user: string): HbaClient => ({ ...unix, database, user });
  const cases: [string, string, HbaClient, boolean][] = [
    ["local meets a Unix socket", "local all all trust", unix, true],
    ["local does not meet TCP", "local all all trust", tcp, false],
    ["host does not meet a Unix socket", "host all all all trust", unix, false],
    ["host meets TCP", "host all all all trust", tcp, true],
    ["host meets TLS", "host all all all trust", tls, true],
    ["hostssl meets TLS", "hostssl all all all trust", tls, true],
    ["hostssl does not meet plain TCP", "hostssl all all all trust", tcp, false],
    ["hostnossl meets plain TCP", "hostnossl all all all trust", tcp, true],
    ["hostnossl does not meet TLS", "hostnossl all all all trust", tls, false],
    ["a database by name", "local sales all trust", unix, true],
    ["a database is case-sensitive", "local Sales all trust", unix, false],
    ["one of a list", "local a,sales,b all trust", unix, true],
    ["sameuser", "local sameuser all trust", named("bob", "bob"), true],
    ["sameuser of another", "local sameuser all trust", unix, false],
    ["sameuser is no name", "local sameuser all trust", named("sameuser", "bob"), false],
    ["a quoted keyword is a name", 'local "all" all trust', named("all", "bob"), true],
    ["and only that", 'local "all" all trust', unix, false],
    ["a quoted user keyword", 'local all "all" trust', unix, false],
    ["replication is a name", "local replication all trust", named("replication", "bob"), true],
    ["samerole ends its field", "local samerole,sales all trust", unix, false],
    ["a name before samerole counts", "local sales,samerole all trust", unix, true],
    ["a group ends its field", "local all +staff,bob trust", unix, false],
    ["a quoted plus is a name", 'local all "+staff" trust', named("x", "+staff"), true],
    ["a user by name", "local all bob trust", unix, true],
    ["another user", "local all alice trust", unix, false],
    ["an address alone", "host all all 10.1.2.3/32 trust", tcp, true],
    ["a range", "host all all 10.1.0.0/16 trust", tcp, true],
    ["a range with bits below its mask", "host all all 10.1.77.77/16 trust", tcp, true],
    ["another range", "host all all 10.2.0.0/16 trust", tcp, false],
    ["everything of IPv4", "host all all 0.0.0.0/0 trust", tcp, true],
    ["nothing of IPv6", "host all all ::/0 trust", tcp, false],
    ["an address and a mask", "host all all 10.1.0.0 255.255.0.0 trust", tcp, true],
    ["a mask with holes", "host all all 10.0.0.3 255.0.0.255 trust", tcp, true],
    ["IPv6", "host all all 2001:db8::/32 trust", from("2001:db8:1::5"), true],
    ["IPv6 with a zone", "host all all fe80::/10 trust", from("fe80::5%eth0"), true],
    [
      "an IPv6 range and an IPv4 client",
      "host all all 10.0.0.0/8 trust",
      from("2001:db8::1"),
      false,
    ],
    [
      "an IPv4 client in IPv6 clothes",
      "host all all 10.0.0.0/8 trust",
      from("::ffff:10.1.2.3"),
      true,
    ],
    ["a rule in IPv6 clothes", "host all all ::ffff:10.0.0.0/104 trust", tcp, true],
    ["and not beyond it", "host all all ::ffff:10.0.0.0/104 trust", from("11.0.0.1"), false],
    ["samehost", "host all all samehost trust", from("10.1.9.9"), true],
    ["samehost is no subnet", "host all all samehost trust", tcp, false],
    ["samenet", "host all all samenet trust", tcp, true],
    ["samenet of IPv6", "host all all samenet trust", from("fe80::77"), true],
    ["outside of every subnet", "host all all samenet trust", from("192.0.2.1"), false],
    ["an address that is none", "host all all 0.0.0.0/0 trust", from("garbage"), false],
  ];
  test.each(cases)("%s", (_, line, client, met) => {
    expect(metBy(line, client)).toBe(met ? 1 : 0);
  });

  test("the first rule that meets the client decides", () => {
    const text =
      "host all alice all trust\nhost sales all 10.0.0.0/8 reject\nhost all all all trust";
    expect(metBy(text, tcp)).toBe(2);
    expect(metBy(text, { ...tcp, user: "alice" })).toBe(1);
    expect(metBy(text, { ...tcp, database: "x" })).toBe(3);
    expect(metBy(text, unix)).toBe(0);
  });

  test("a refusal says the same whether a rule rejects or none is there", () => {
    expect(hbaRefusal(tcp)).toMatchObject({
      severity: "FATAL",
      sqlstate: "28000",
      message: "client authentication failed",
      detail: 'no pool_hba.conf entry for host "10.1.2.3", user "bob", database "sales", SSL off',
      hint: "see pgpool log for details",
    });
    expect(hbaRefusal({ ...unix, tls: true }).detail).toContain('host "[local]"');
  });
});

describe("a rule with a host name", () => {
  const zone = {
    reverse: { "10.1.2.3": ["Web1.example.COM"], "10.1.2.4": ["web1.example.com"] },
    forward: { "Web1.example.COM": ["192.0.2.9", "10.1.2.3"], "web1.example.com": ["10.1.2.3"] },
  } as const;
  const resolve = (asked: HbaQuestion[]) => (question: HbaQuestion) => {
    asked.push(question);
    const table: Record<string, readonly string[]> =
      question.kind === "reverse_lookup" ? zone.reverse : zone.forward;
    return table[question.kind === "reverse_lookup" ? question.address : question.name] ?? [];
  };
  const cases: [string, string, string, boolean][] = [
    ["meets its host, whatever the case", "web1.example.com", "10.1.2.3", true],
    ["meets hosts of a domain", ".example.com", "10.1.2.3", true],
    ["does not take a suffix without dot", "example.com", "10.1.2.3", false],
    ["does not take a domain's own name", ".web1.example.com", "10.1.2.3", false],
    ["does not believe a reverse zone alone", "web1.example.com", "10.1.2.4", false],
    ["does not meet an address without name", "web1.example.com", "10.9.9.9", false],
  ];
  test.each(cases)("%s", (_, name, address, met) => {
    const decision = matchHbaWith(
      rulesOf(`host all all ${name} trust`),
      from(address),
      resolve([]),
    );
    expect(decision.kind).toBe(met ? "rule" : "no_match");
  });

  test("asks each question once for all rules, and none when the type does not fit", () => {
    const rules = rulesOf("host all all a trust\nhost all all b trust\nhost all all .com trust");
    const asked: HbaQuestion[] = [];
    expect(matchHbaWith(rules, tcp, resolve(asked)).kind).toBe("rule");
    expect(asked).toEqual([
      { kind: "reverse_lookup", address: "10.1.2.3" },
      { kind: "forward_lookup", name: "Web1.example.COM" },
    ]);
    expect(matchHba(rules, unix).next()).toEqual({ done: true, value: { kind: "no_match" } });
  });
});

describe("addresses", () => {
  const cases: [string, string | undefined][] = [
    ["0.0.0.0", "00000000"],
    ["255.255.255.255", "ffffffff"],
    ["256.0.0.1", undefined],
    ["1.2.3", undefined],
    ["01.2.3.4", undefined],
    ["1.2.3.4.5", undefined],
    ["::", "0".repeat(32)],
    ["::1", `${"0".repeat(31)}1`],
    ["1::", `0001${"0".repeat(28)}`],
    ["2001:db8::a:1", `20010db8${"0".repeat(16)}000a0001`],
    ["::ffff:1.2.3.4", "01020304"],
    ["::1.2.3.4", `${"0".repeat(24)}01020304`],
    ["1.2.3.4::", undefined],
    ["1:2:3:4:5:6:7:8", "00010002000300040005000600070008"],
    ["1:2:3:4:5:6:7", undefined],
    ["1:2:3:4:5:6:7:8:9", undefined],
    ["1::2::3", undefined],
    [":1", undefined],
    ["12345::", undefined],
    ["fe80::1%lo", `fe80${"0".repeat(27)}1`],
    ["", undefined],
  ];
  test.each(cases)("%p", (text, hex) => {
    expect(parseIp(text)?.toHex()).toBe(hex as string);
  });

  test("an address is in the range of its own first bits, and only while those agree", () => {
    const bytes = fc.uint8Array({ minLength: 4, maxLength: 4 });
    fc.assert(
      fc.property(bytes, fc.nat(32), fc.nat(31), (address, bits, flipped) => {
        const mask = maskOfBits(bits, 4);
        if (mask === undefined) throw new Error("32 bits fit");
        const other = address.map((byte, at) =>
          at === flipped >> 3 ? byte ^ (0x80 >> (flipped & 7)) : byte,
        );
        expect(isInRange(address, { address, mask })).toBe(true);
        expect(isInRange(other, { address, mask })).toBe(flipped >= bits);
      }),
    );
  });

  test("any text is parsed or refused, never an accident", () => {
    const line = fc.string({
      unit: fc.constantFrom(...'local host,all"@#=/.:+ \t\r\n0a'),
      maxLength: 60,
    });
    fc.assert(
      fc.property(line, (text) => {
        const file = parse(text);
        expect(file.ok || file.messages.length > 0).toBe(true);
      }),
    );
  });
});

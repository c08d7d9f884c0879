import { expect, test } from "bun:test";
import { listenAddresses } from "../../proxy/listener.ts";

const params = {
  listen_addresses: ["127.0.0.1", "::1"],
  port: 9999,
  unix_socket_directories: ["/run/a", "/run/b"],
  unix_socket_permissions: 0o770,
  num_init_children: 32,
  listen_backlog_multiplier: 2,
};

test("every address and directory is listened at, TCP first", () => {
  expect(listenAddresses(params)).toEqual([
    { kind: "tcp", host: "127.0.0.1", port: 9999, backlog: 64 },
    { kind: "tcp", host: "::1", port: 9999, backlog: 64 },
    { kind: "unix", path: "/run/a/.s.PGSQL.9999", mode: 0o770 },
    { kind: "unix", path: "/run/b/.s.PGSQL.9999", mode: 0o770 },
  ]);
});

test("the backlog has Pgpool's ceiling", () => {
  const [first] = listenAddresses({ ...params, num_init_children: 9000 });
  expect(first).toMatchObject({ kind: "tcp", backlog: 10_000 });
});

import { describe, expect, test } from "bun:test";
import type { Log } from "../../core/ports.ts";
import { listenAddresses, openListeners } from "../../proxy/listener.ts";
import type { Transport } from "../../proxy/transport/conn.ts";

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

test("Unix sockets are given to the group asked for", () => {
  const sockets = listenAddresses(params, 17).filter(({ kind }) => kind === "unix");
  expect(sockets).toMatchObject([{ groupId: 17 }, { groupId: 17 }]);
});

describe("a path that no Unix socket can have", () => {
  const long = `/${"d".repeat(110)}`;
  const open = async (directories: readonly string[]) => {
    const opened: string[] = [];
    const said: string[] = [];
    const transport: Transport = {
      name: "node",
      listen: async (address) => {
        opened.push(address.kind === "unix" ? address.path : address.host);
        return { port: undefined, close: async () => undefined };
      },
      connect: () => Promise.reject(new Error("nobody connects")),
    };
    const log: Log = {
      enabled: () => true,
      write: (severity, message) => {
        if (severity === "WARNING") said.push(message);
      },
      as: () => log,
    };
    const addresses = listenAddresses({ ...params, unix_socket_directories: [...directories] });
    await openListeners(transport, addresses, () => undefined, log);
    return { opened, said };
  };

  test("is a warning while another one is left", async () => {
    expect(await open([long, "/run/b"])).toEqual({
      opened: ["127.0.0.1", "::1", "/run/b/.s.PGSQL.9999"],
      said: [`Unix-domain socket path "${long}/.s.PGSQL.9999" is too long (maximum 107 bytes)`],
    });
  });

  test("is fatal when none is left", async () => {
    await expect(open([long])).rejects.toThrow("could not create any Unix-domain sockets");
    expect((await open([])).opened).toEqual(["127.0.0.1", "::1"]);
  });
});

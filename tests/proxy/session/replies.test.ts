import { expect, test } from "bun:test";
import { nodeId } from "../../../core/cluster/state.ts";
import { noticeResponse } from "../../../core/wire/backend.ts";
import { Replies, type ReplyEvents } from "../../../proxy/session/replies.ts";

const quiet: ReplyEvents = {
  settled() {},
  failed() {},
  diverged() {},
  broken() {},
  unasked: () => false,
  farewell: () => false,
  parameterStatus: () => false,
  drained() {},
  copyBegan() {},
};

test("a message of our own never stands inside of a server's", () => {
  const seen: Uint8Array[] = [];
  const sink = (send: (bytes: Uint8Array) => void) => ({
    send(bytes: Uint8Array) {
      send(bytes);
      return true;
    },
    pause() {},
    resume() {},
  });
  const replies = new Replies(
    sink((bytes) => void seen.push(bytes.slice())),
    quiet,
  );
  const link = replies.attach(
    nodeId(0),
    sink(() => {}),
  );
  replies.statusLink = link;
  const notice = noticeResponse({ severity: "NOTICE", code: "00000", message: "hello" });
  const row = Buffer.from("440000000b00010000000141", "hex");
  const done = Buffer.concat([Buffer.from("C\0\0\0\rSELECT 1\0"), Buffer.from("Z\0\0\0\x05I")]);

  replies.expect("Query", link, [link], undefined);
  replies.aside(notice);
  replies.receive(link, new Uint8Array(row.subarray(0, 8)));
  expect(replies.midMessage).toBe(true);
  replies.aside(notice);
  replies.receive(link, new Uint8Array(row.subarray(8)));
  replies.receive(link, new Uint8Array(done));
  expect(Buffer.concat(seen)).toEqual(Buffer.concat([notice, row, done, notice]));
});

/** pgpool_status on the disk. */

import {
  chmodSync,
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import type { StatusStore } from "../proxy/cluster/controller.ts";

export function statusStore(path: string): StatusStore {
  return {
    path,
    read: () => (existsSync(path) ? readFileSync(path) : undefined),
    write: (text) => replaceFile(path, text),
    remove: () => rmSync(path, { force: true }),
  };
}

/** All of the new text or all of the old: a full disk or a crash leaves what there was. */
function replaceFile(path: string, text: string): void {
  const draft = `${path}.new`;
  try {
    const file = openSync(draft, "w", 0o644);
    try {
      writeFileSync(file, text);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    chmodSync(draft, 0o644);
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
}

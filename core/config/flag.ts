/** `backend_flagN`: names joined by `|`, spelled exactly. */

import { ConfigError } from "../errors.ts";
import type { BackendFlag } from "./schema.ts";

/** Nothing said means that failover is allowed. @throws ConfigError naming `name`. */
export function parseBackendFlag(name: string, text: string): BackendFlag {
  const words = text
    .split("|")
    .map((word) => word.trim())
    .filter((word) => word !== "");
  let failover: boolean | undefined;
  let alwaysPrimary = false;
  for (const word of words) {
    switch (word) {
      case "ALLOW_TO_FAILOVER":
      case "DISALLOW_TO_FAILOVER": {
        const allowed = word === "ALLOW_TO_FAILOVER";
        if (failover === !allowed) {
          throw wrong(
            name,
            "cannot set ALLOW_TO_FAILOVER and DISALLOW_TO_FAILOVER at the same time",
          );
        }
        failover = allowed;
        break;
      }
      case "ALWAYS_PRIMARY":
      case "ALWAYS_MASTER": // the name in 4.1
        alwaysPrimary = true;
        break;
      default:
        throw wrong(name, `unknown backend flag:${word}`);
    }
  }
  return { allowToFailover: failover ?? true, alwaysPrimary };
}

/** As SHOW pool_status and PGPOOL SHOW print it. */
export function formatBackendFlag(flag: BackendFlag): string {
  const failover = flag.allowToFailover ? "ALLOW_TO_FAILOVER" : "DISALLOW_TO_FAILOVER";
  return flag.alwaysPrimary ? `${failover}|ALWAYS_PRIMARY` : failover;
}

const wrong = (name: string, detail: string): ConfigError =>
  new ConfigError(`invalid configuration for key "${name}"`, { detail });

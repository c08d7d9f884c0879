/** What routing asks of the writes of all sessions (spec load-balance.md 8.4). */
export interface RecentlyWritten {
  /** Just started: what was written before is not known. */
  readonly isCold: boolean;
  /** A table of this name was written so lately that a standby may still show it as it was. */
  isStale(table: string): boolean;
}

/** Times as the log and SHOW print them: of this host's time zone. */

const two = (value: number): string => String(value).padStart(2, "0");

/** `YYYY-MM-DD HH:MM:SS` of milliseconds since the epoch. */
export function formatTime(ms: number): string {
  const t = new Date(ms);
  const date = `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())}`;
  return `${date} ${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
}

/** The same with `.mmm`. */
export function formatTimeMs(ms: number): string {
  const millis = ((Math.trunc(ms) % 1000) + 1000) % 1000;
  return `${formatTime(ms)}.${String(millis).padStart(3, "0")}`;
}

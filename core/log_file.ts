/** When a log file ends and how the next is called (spec config/logging.md section 3). */

/** Days since the epoch and the like are reckoned in local time, as the name of a file is. */
const localOffsetMs = (ms: number): number => -new Date(ms).getTimezoneOffset() * 60_000;

export type RotationRules = {
  /** Minutes; 0 is never. */
  readonly log_rotation_age: number;
  /** Kilobytes; 0 is never. */
  readonly log_rotation_size: number;
};

/** The next whole multiple of the age in local time; undefined when age does not matter. */
export function rotationTime(now: number, { log_rotation_age }: RotationRules): number | undefined {
  if (log_rotation_age === 0) return undefined;
  const interval = log_rotation_age * 60_000;
  const local = now + localOffsetMs(now);
  return now + interval - (local % interval);
}

export type OpenFile = {
  /** As `rotationTime` gave it when the file was opened. */
  readonly rotateAt: number | undefined;
  readonly sizeBytes: number;
};

/** Why the next line belongs into another file, if it does. */
export function rotationDue(
  file: OpenFile,
  rules: RotationRules,
  now: number,
): "age" | "size" | undefined {
  if (file.rotateAt !== undefined && now >= file.rotateAt) return "age";
  const sizeMax = rules.log_rotation_size * 1024;
  return sizeMax > 0 && file.sizeBytes >= sizeMax ? "size" : undefined;
}

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];

const padded = (value: number, width = 2): string => String(value).padStart(width, "0");

/** C's strftime in the C locale and local time. An unknown conversion is left as it stands. */
export function strftime(pattern: string, ms: number): string {
  const t = new Date(ms);
  return pattern.replace(/%([a-zA-Z%])/g, (all, letter: string) => conversion(letter, t) ?? all);
}

function conversion(letter: string, t: Date): string | undefined {
  const month = MONTHS[t.getMonth()] ?? "";
  const day = DAYS[t.getDay()] ?? "";
  const composed = COMPOSED[letter];
  if (composed !== undefined) return strftime(composed, t.getTime());
  switch (letter) {
    case "Y":
      return String(t.getFullYear());
    case "C":
      return padded(Math.trunc(t.getFullYear() / 100));
    case "y":
      return padded(t.getFullYear() % 100);
    case "m":
      return padded(t.getMonth() + 1);
    case "d":
      return padded(t.getDate());
    case "e":
      return String(t.getDate()).padStart(2);
    case "H":
      return padded(t.getHours());
    case "I":
      return padded(t.getHours() % 12 || 12);
    case "M":
      return padded(t.getMinutes());
    case "S":
      return padded(t.getSeconds());
    case "p":
      return t.getHours() < 12 ? "AM" : "PM";
    case "a":
      return day.slice(0, 3);
    case "A":
      return day;
    case "b":
    case "h":
      return month.slice(0, 3);
    case "B":
      return month;
    case "j":
      return padded(dayOfYear(t), 3);
    case "u":
      return String(t.getDay() || 7);
    case "w":
      return String(t.getDay());
    case "s":
      return String(Math.trunc(t.getTime() / 1000));
    case "%":
      return "%";
    default:
      return undefined;
  }
}

const COMPOSED: { readonly [letter: string]: string } = {
  F: "%Y-%m-%d",
  T: "%H:%M:%S",
  R: "%H:%M",
  D: "%m/%d/%y",
};

function dayOfYear(t: Date): number {
  const midnight = Date.UTC(t.getFullYear(), t.getMonth(), t.getDate());
  return (midnight - Date.UTC(t.getFullYear(), 0, 0)) / 86_400_000;
}

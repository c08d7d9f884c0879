/**
 * What a row of the parameter tables may say, and the type of value each row gives. The rows are
 * read by the loader, SHOW, reload and the sample file (spec config/parameters.json).
 */

/** When a new value takes effect: at the next start, at a reload, or by PGPOOL SET as well. */
export type Context = "restart" | "reload" | "session";

/** What the index of `name0`, `name1`, … counts. */
export type IndexKind = "backend" | "watchdog" | "heartbeat";

/** The base unit in which a bare number is read and the value is kept. */
export type Unit = "B" | "kB" | "ms" | "s" | "min";

type Common = {
  readonly context: Context;
  /** One line for the sample file and SHOW. */
  readonly brief: string;
  /** The version of Pgpool-II that brought it, when later than 4.1; `0.1` and up are our own. */
  readonly since?: string;
  /** Shown as `*****`. */
  readonly secret?: true;
  readonly perNode?: IndexKind;
  /** The name without index is allowed too, and is the default of every node. */
  readonly indexFree?: true;
};

export type BoolRow = Common & { readonly type: "bool"; readonly initial: boolean };
/** `long` goes up to 2^63-1 upstream; here values above 2^53-1 are refused. */
export type NumberRow = Common & {
  readonly type: "int" | "long" | "real";
  readonly initial: number;
  readonly min: number;
  /** Default: the largest of a C `int` or `long`. */
  readonly max?: number;
  readonly unit?: Unit;
  /** Files have it in octal. */
  readonly written?: "octal";
  /** PGPOOL SHOW prints four octal digits. */
  readonly shown?: "octal";
};
export type StringRow = Common & { readonly type: "string"; readonly initial: string };
export type EnumRow = Common & {
  readonly type: "enum";
  readonly initial: string;
  readonly values: readonly string[];
  /** What the hint of an error and the sample file name, when not just `values`. */
  readonly listed?: readonly string[];
  /** Other spellings, each with the value it stands for. */
  readonly aliases?: { readonly [spelling: string]: string };
};
/** Items are trimmed and empty ones dropped. */
export type ListRow = Common & {
  readonly type: "list";
  readonly initial: string;
  readonly separator: "," | ";";
  /** Items are case-insensitive POSIX regular expressions, anchored at both ends. */
  readonly regex?: true;
  /** The only items allowed. */
  readonly values?: readonly string[];
};

export type Row = BoolRow | NumberRow | StringRow | EnumRow | ListRow;
export type Rows = { readonly [name: string]: Row };

/** A value of any row. */
export type Value = boolean | number | string | readonly string[];

/** The value that a row gives. */
export type ValueOf<R extends Row> = R extends BoolRow
  ? boolean
  : R extends NumberRow
    ? number
    : R extends { readonly type: "enum"; readonly values: readonly (infer V)[] }
      ? V
      : R extends { readonly type: "list"; readonly values: readonly (infer V)[] }
        ? readonly V[]
        : R extends ListRow
          ? readonly string[]
          : string;

export const INT_MAX = 2_147_483_647;

/** Highest index of `name0`, `name1`, … */
export const INDEX_MAX: { readonly [K in IndexKind]: number } = {
  backend: 127,
  watchdog: 127,
  heartbeat: 255,
};

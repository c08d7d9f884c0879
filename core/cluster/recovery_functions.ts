/**
 * The functions of the extension pgpool_recovery 1.4, in PL/pgSQL: online recovery then needs no C
 * library on the database hosts (spec wire/recovery.md sections 5 and 8). A script runs through
 * `COPY … TO PROGRAM`, as the server's OS user and in its data directory, with nothing on its standard
 * input.
 *
 * Unlike the library, values reach the script as they are (the library leaves `$HOME` and backticks in
 * them to the shell), the failure of a script has its command and exit code in the error's detail, and
 * its SQLSTATE is P0001.
 */

/** Parameters of pgpool_recovery in order; each form has one more than the form before it. */
const recoveryParameters = [
  "script_name text",
  "remote_host text",
  "remote_data_directory text",
  "primary_port text",
  "remote_node integer",
  "remote_port text",
  "primary_host text",
] as const;

const dataDirectory = "current_setting('data_directory')";

/**
 * Every statement may run again. They make functions of the schema `public`, and fail with 42P13 or
 * 42501 where the extension's own functions are already there: ask `recoveryExtensionSql` first.
 */
export const recoveryFunctionsSql: string = [
  ...[3, 4, 5, 6, 7].map((count) => recoveryForm(recoveryParameters.slice(0, count))),
  scriptFunction({
    name: "pgpool_remote_start",
    parameters: ["remote_host text", "remote_data_directory text"],
    command: [`${dataDirectory} || '/pgpool_remote_start'`, "remote_host", "remote_data_directory"],
  }),
  pgctlFunction(),
  switchXlogFunction(),
].join("\n");

/** One row if this database has the extension, whose functions are as good as these. */
export const recoveryExtensionSql = `SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'pgpool_recovery'`;

function recoveryForm(parameters: readonly string[]): string {
  const [, ...values] = parameters.map((parameter) => parameter.split(" ")[0] ?? "");
  const words = values.map((name) => (name === "remote_node" ? "remote_node::text" : name));
  return scriptFunction({
    name: "pgpool_recovery",
    parameters,
    command: [`${dataDirectory} || '/' || script_name`, dataDirectory, ...words],
  });
}

type ScriptFunction = {
  readonly name: string;
  readonly parameters: readonly string[];
  /** SQL expressions, each of which becomes one word for the shell. */
  readonly command: readonly string[];
};

/**
 * Words are quoted with apostrophes, within which a shell changes nothing. The search path is fixed,
 * so that nobody's functions of the same names are called with a superuser's rights.
 */
function scriptFunction({ name, parameters, command }: ScriptFunction): string {
  return `CREATE OR REPLACE FUNCTION public.${name}(${parameters.join(", ")})
RETURNS bool LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  command text;
  reason text;
BEGIN
${superuserOnly(name)}
  SELECT string_agg('''' || replace(word, '''', '''\\''''') || '''', ' ' ORDER BY place) INTO command
    FROM unnest(ARRAY[${command.join(", ")}]) WITH ORDINALITY AS words (word, place);
  EXECUTE format('COPY (SELECT 1 WHERE false) TO PROGRAM %L', command);
  RETURN true;
EXCEPTION WHEN external_routine_exception THEN
  GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
  RAISE EXCEPTION '${name} failed' USING DETAIL = concat_ws(': ', SQLERRM, nullif(reason, ''));
END $function$;
`;
}

function superuserOnly(name: string): string {
  return `  IF current_setting('is_superuser') <> 'on' THEN
    RAISE EXCEPTION 'must be superuser to use ${name} function'
      USING ERRCODE = 'insufficient_privilege';
  END IF;`;
}

/** Only a reload is waited for: a stop or restart would end the very session that asks for it. */
function pgctlFunction(): string {
  return `CREATE OR REPLACE FUNCTION public.pgpool_pgctl(action text, stop_mode text)
RETURNS bool LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  command text;
BEGIN
${superuserOnly("pgpool_pgctl")}
  SELECT string_agg('''' || replace(word, '''', '''\\''''') || '''', ' ' ORDER BY place) INTO command
    FROM unnest(ARRAY[current_setting('pgpool.pg_ctl'), action, '-D', ${dataDirectory}]
      || CASE WHEN stop_mode = '' THEN ARRAY[]::text[] ELSE ARRAY['-m', stop_mode] END)
      WITH ORDINALITY AS words (word, place);
  command := command || ' </dev/null >/dev/null 2>&1';
  IF action <> 'reload' THEN
    command := command || ' &';
  END IF;
  EXECUTE format('COPY (SELECT 1 WHERE false) TO PROGRAM %L', command);
  RETURN true;
EXCEPTION WHEN external_routine_exception THEN
  RAISE EXCEPTION 'pgpool_pgctl failed' USING DETAIL = SQLERRM;
END $function$;
`;
}

/** An archive command that copies in place is seen at work: whole megabytes are what it has done. */
function switchXlogFunction(): string {
  return `CREATE OR REPLACE FUNCTION public.pgpool_switch_xlog(archive_dir text)
RETURNS text LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  path text;
  file_size bigint;
BEGIN
  IF NOT (SELECT isdir FROM pg_stat_file(archive_dir)) THEN
    RAISE EXCEPTION '"%" is not a directory', archive_dir;
  END IF;
  path := archive_dir || '/' || pg_walfile_name(pg_switch_wal());
  RAISE LOG 'pgpool_switch_xlog: waiting for "%"', path;
  LOOP
    SELECT size INTO file_size FROM pg_stat_file(path, true);
    EXIT WHEN file_size > 0 AND file_size % 1048576 = 0;
    PERFORM pg_sleep(1);
  END LOOP;
  RETURN path;
END $function$;
`;
}

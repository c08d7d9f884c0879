/** The `name=value` options of pool_hba.conf records (spec wire/files.md 4.3), as rows. */
import type { HbaMethod } from "./hba.ts";

/** By name, the last one given. */
export type HbaOptions = ReadonlyMap<string, string>;

type Row = { readonly method: HbaMethod; readonly values?: RegExp };

const rows: ReadonlyMap<string, Row> = new Map<string, Row>([
  ["pamservice", { method: "pam" }],
  ["pam_use_hostname", { method: "pam" }],
  ["ldapserver", { method: "ldap" }],
  ["ldapport", { method: "ldap", values: /^[1-9][0-9]{0,4}$/ }],
  ["ldapscheme", { method: "ldap" }],
  ["ldaptls", { method: "ldap" }],
  ["ldapprefix", { method: "ldap" }],
  ["ldapsuffix", { method: "ldap" }],
  ["ldapbasedn", { method: "ldap" }],
  ["ldapbinddn", { method: "ldap" }],
  ["ldapbindpasswd", { method: "ldap" }],
  ["ldapsearchattribute", { method: "ldap" }],
  ["ldapsearchfilter", { method: "ldap" }],
  ["ldapurl", { method: "ldap" }],
  ["backend_use_passwd", { method: "ldap" }],
]);

export type HbaOption = { readonly name: string; readonly value: string };

/** Undefined when it is not `name=value`. */
export function readHbaOption(text: string): HbaOption | undefined {
  const at = text.indexOf("=");
  return at < 0 ? undefined : { name: text.slice(0, at), value: text.slice(at + 1) };
}

/** What is wrong with an option on a rule of this method. */
export function hbaOptionProblem(
  option: HbaOption,
  method: HbaMethod,
): { readonly message: string; readonly fatal: boolean } | undefined {
  const { name, value } = option;
  const row = rows.get(name);
  if (row === undefined) {
    return { message: `unrecognized authentication option name: "${name}"`, fatal: true };
  }
  if (row.method !== method) {
    const message = `authentication option "${name}" is only valid for authentication methods ${row.method}`;
    // Pgpool refuses the file for the options of ldap and only complains about those of pam.
    return { message, fatal: row.method !== "pam" };
  }
  if (row.values?.test(value) === false) {
    return { message: `invalid LDAP port number: "${value}"`, fatal: true };
  }
  if (name === "ldapscheme" && value !== "ldap" && value !== "ldaps") {
    return { message: `invalid ldapscheme value: "${value}"`, fatal: false };
  }
  if (name === "ldapurl" && !/^ldaps?:\/\//i.test(value)) {
    return { message: `unsupported LDAP URL scheme: ${value.split(":", 1)[0]}`, fatal: true };
  }
  return undefined;
}

const searchOptions = [
  "ldapbasedn",
  "ldapbinddn",
  "ldapbindpasswd",
  "ldapsearchattribute",
  "ldapsearchfilter",
];

/** What is wrong with the options of an `ldap` rule taken together. */
export function ldapProblem(given: HbaOptions): string | undefined {
  const url = given.get("ldapurl");
  const searches = searchOptions.some((name) => given.has(name)) || url !== undefined;
  if (given.has("ldapprefix") || given.has("ldapsuffix")) {
    if (!searches) return undefined;
    return "cannot use ldapbasedn, ldapbinddn, ldapbindpasswd, ldapsearchattribute, ldapsearchfilter, or ldapurl together with ldapprefix";
  }
  if (!given.has("ldapbasedn") && !urlHasBase(url)) {
    return 'authentication method "ldap" requires argument "ldapbasedn", "ldapprefix", or "ldapsuffix" to be set';
  }
  if (given.has("ldapsearchattribute") && given.has("ldapsearchfilter")) {
    return "cannot use ldapsearchattribute together with ldapsearchfilter";
  }
  return undefined;
}

const urlHasBase = (url: string | undefined): boolean =>
  url !== undefined && /^ldaps?:\/\/[^/]*\/[^?]+/i.test(url);

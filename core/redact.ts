/**
 * Statements as the log may show them: the words are kept, the passwords are not. Works on broken
 * SQL too, since what cannot be parsed is logged as well.
 */

/** `PASSWORD '…'` of CREATE/ALTER ROLE and of option lists; a quote without end runs to the end. */
const PASSWORD_CLAUSE =
  /(\bpassword(?:\s|\/\*[^*]*\*\/|--[^\n]*\n)+)(?:(?:[eE]|[uU]&)?'(?:[^'\\]|\\.|'')*(?:'|\\?$)|(\$[A-Za-z_0-9]*\$)[\s\S]*?(?:\2|$))/gi;

/** `password=…` within a connection string, which is itself a quoted literal. */
const QUOTED = /'(?:[^']|'')*(?:'|$)/g;
const IN_CONNECTION_STRING = /(\bpassword\s*=\s*)(?:''(?:[^'\\]|\\.)*(?:''|$)|[^\s']+)/gi;
const IN_URL = /(\b[a-z]+:\/\/[^\s:/@']*:)[^\s@']+(?=@)/gi;

/** The same text with every password replaced by asterisks. */
export function redactPasswords(sql: string): string {
  const redacted = /password/i.test(sql) ? sql.replace(PASSWORD_CLAUSE, "$1'*****'") : sql;
  if (!/password\s*=|:\/\//i.test(redacted)) return redacted;
  return redacted.replace(QUOTED, (literal) =>
    literal.replace(IN_CONNECTION_STRING, "$1*****").replace(IN_URL, "$1*****"),
  );
}

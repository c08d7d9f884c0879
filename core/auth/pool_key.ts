/**
 * The AES form of pool_passwd: AES-256-CBC under a key and IV stretched from the text in
 * `.pgpoolkey` by OpenSSL's legacy EVP_BytesToKey (spec wire/crypto.md 2.1). Byte-compatible with
 * pg_enc, and therefore no better than obfuscation: equal passwords give equal texts.
 */
import { createCipheriv, createDecipheriv, createHash } from "node:crypto";
import { concatBytes, decodeBase64, encodeBase64 } from "./bytes.ts";

export type PoolKey = { readonly key: Uint8Array; readonly iv: Uint8Array };

/** Bytes of a key file's first line that count; pg_enc reads it with a buffer of this size. */
export const keyFileSizeMax = 255;
/** Bytes of `pg_enc -K` that count. */
export const keyArgumentSizeMax = 256;

/** SHA-1, one round, no salt. The caller has cut `keyText` to its limit. */
export function derivePoolKey(keyText: Uint8Array): PoolKey {
  const sha1 = (data: Uint8Array) => new Uint8Array(createHash("sha1").update(data).digest());
  const first = sha1(keyText);
  const second = sha1(concatBytes(first, keyText));
  const third = sha1(concatBytes(second, keyText));
  const stretched = concatBytes(first, second, third);
  return { key: stretched.slice(0, 32), iv: stretched.slice(32, 48) };
}

/**
 * The key text in a key file: its first line without the newline, cut to 255 bytes. A carriage
 * return, blanks and `#` are part of the key; an empty first line is the empty key. Undefined for
 * an empty file, which holds no key.
 */
export function keyTextOfFile(content: Uint8Array): Uint8Array | undefined {
  if (content.length === 0) return undefined;
  const newline = content.indexOf(0x0a);
  const line = newline === -1 ? content : content.subarray(0, newline);
  return line.slice(0, keyFileSizeMax);
}

/** What a key file's type and permission bits call for (spec wire/files.md 5). */
export function keyFileWarning(
  path: string,
  file: { readonly isPlainFile: boolean; readonly mode: number },
): { readonly message: string; readonly usable: boolean } | undefined {
  if (!file.isPlainFile) {
    return { message: `pool key file "${path}" is not a plain file`, usable: false };
  }
  if ((file.mode & 0o077) === 0) return undefined;
  const message = `pool key file "${path}" has group or world access; permissions should be u=rw (0600) or less`;
  return { message, usable: true };
}

/** The base64 text that follows `AES` in pool_passwd. */
export function encryptPassword(password: Uint8Array, pool: PoolKey): string {
  const cipher = createCipheriv("aes-256-cbc", pool.key, pool.iv);
  return encodeBase64(concatBytes(cipher.update(password), cipher.final()));
}

/** Undefined when the text is not base64, or the key does not open it. */
export function decryptPassword(base64: string, pool: PoolKey): Uint8Array | undefined {
  const encrypted = decodeBase64(base64);
  if (encrypted === undefined || encrypted.length === 0 || encrypted.length % 16 !== 0) {
    return undefined;
  }
  try {
    const decipher = createDecipheriv("aes-256-cbc", pool.key, pool.iv);
    return concatBytes(decipher.update(encrypted), decipher.final());
  } catch {
    return undefined; // the padding is wrong: another key, or a damaged entry
  }
}

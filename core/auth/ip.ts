/** Numeric IP addresses and masks, as pool_hba.conf compares them. */

/** `bytes` has 4 or 16 bytes, which is the family. */
export type IpAddress = Uint8Array;

export type IpRange = { readonly address: IpAddress; readonly mask: Uint8Array };

/**
 * A numeric address, or undefined for anything else. A zone (`fe80::1%eth0`) is dropped, and an
 * IPv4 address that reached us in IPv6 clothes (`::ffff:192.0.2.1`) is the IPv4 address.
 */
export function parseIp(text: string): IpAddress | undefined {
  const [bare = ""] = text.split("%", 1);
  const address = bare.includes(":") ? parseIpv6(bare) : parseIpv4(bare);
  return address !== undefined && isV4Mapped(address) ? address.slice(12) : address;
}

/** As `parseIp`, but an IPv4 address mapped into IPv6 stays as it is written. */
export const parseIpAsWritten = (text: string): IpAddress | undefined =>
  text.includes(":") ? parseIpv6(text) : parseIpv4(text);

function parseIpv4(text: string): IpAddress | undefined {
  const parts = text.split(".");
  // Leading zeros are octal to some and decimal to others: no rule should rest on that.
  if (parts.length !== 4 || !parts.every((part) => /^(?:0|[1-9][0-9]{0,2})$/.test(part))) {
    return undefined;
  }
  const numbers = parts.map(Number);
  return numbers.every((number) => number <= 255) ? Uint8Array.from(numbers) : undefined;
}

function parseIpv6(text: string): IpAddress | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const [head, tail] = halves.map((half) => (half === "" ? [] : half.split(":").map(parseGroup)));
  const isLast = (groups: readonly unknown[] | undefined, at: number) =>
    at === (groups?.length ?? 0) - 1;
  const flatten = (groups: typeof head, endsAddress: boolean): number[] | undefined => {
    const bytes: number[] = [];
    for (const [at, group] of (groups ?? []).entries()) {
      if (group === undefined) return undefined;
      if (group.length === 4 && !(endsAddress && isLast(groups, at))) return undefined;
      bytes.push(...group);
    }
    return bytes;
  };
  const left = flatten(head, halves.length === 1);
  const right = flatten(tail, true);
  if (left === undefined || right === undefined) return undefined;
  const size = left.length + right.length;
  if (halves.length === 1 ? size !== 16 : size > 14) return undefined;
  return Uint8Array.from([...left, ...new Array<number>(16 - size).fill(0), ...right]);
}

/** The bytes of one group between colons: two, or four when it is a dotted IPv4 address. */
function parseGroup(text: string): readonly number[] | undefined {
  if (text.includes(".")) {
    const v4 = parseIpv4(text);
    return v4 === undefined ? undefined : [...v4];
  }
  if (!/^[0-9a-fA-F]{1,4}$/.test(text)) return undefined;
  const group = Number.parseInt(text, 16);
  return [group >> 8, group & 0xff];
}

const isV4Mapped = (address: IpAddress): boolean =>
  address.length === 16 &&
  address.subarray(0, 10).every((byte) => byte === 0) &&
  address[10] === 0xff &&
  address[11] === 0xff;

/** The mask of that many leading ones, or undefined when the family has not so many bits. */
export function maskOfBits(bits: number, size: number): Uint8Array | undefined {
  if (!Number.isInteger(bits) || bits < 0 || bits > size * 8) return undefined;
  return Uint8Array.from({ length: size }, (_, at) => {
    const ones = Math.min(8, Math.max(0, bits - at * 8));
    return (0xff << (8 - ones)) & 0xff;
  });
}

/**
 * Inside the range; never so for another family. A range over IPv4-mapped IPv6 addresses means the
 * IPv4 addresses, because that is how clients appear.
 */
export function isInRange(address: IpAddress, range: IpRange): boolean {
  const { address: base, mask } = asV4Range(range);
  if (address.length !== base.length) return false;
  return address.every((byte, at) => ((byte ^ (base[at] ?? 0)) & (mask[at] ?? 0)) === 0);
}

function asV4Range(range: IpRange): IpRange {
  const coversOneV4 =
    isV4Mapped(range.address) && range.mask.subarray(0, 12).every((b) => b === 0xff);
  return coversOneV4 ? { address: range.address.slice(12), mask: range.mask.slice(12) } : range;
}

export const sameIp = (left: IpAddress, right: IpAddress): boolean =>
  left.length === right.length && left.every((byte, at) => byte === right[at]);

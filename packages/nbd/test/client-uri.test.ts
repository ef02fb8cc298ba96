import { BlockIoError } from "@dmkit/block-io";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type NbdUri, formatNbdUri, isNbdUri, parseNbdUri, placeOf } from "../src/uri.ts";

const tcp = (host: string, port: number, exportName: string): NbdUri => ({
  address: { kind: "tcp", host, port },
  exportName,
});
const unix = (path: string, exportName: string): NbdUri => ({ address: { kind: "unix", path }, exportName });

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof BlockIoError) return error.code;
    throw error;
  }
  return "none";
}

describe("NBD URIs", () => {
  it("of one place are told to be of one place", () => {
    const here = ["nbd://localhost/x", "nbd://127.0.0.1:10809/x", "nbd://[::1]/x", "nbd://LOCALHOST:/x"];
    expect(new Set(here.map((text) => placeOf(parseNbdUri(text)))).size).toBe(1);
    const sockets = [
      `nbd+unix:///x?socket=${process.cwd()}/s`,
      "nbd+unix:///x?socket=./s",
      "nbd+unix:///x?socket=s",
    ];
    expect(new Set(sockets.map((text) => placeOf(parseNbdUri(text)))).size).toBe(1);
    const others = ["nbd://localhost/y", "nbd://localhost:1/x", "nbd://host/x", "nbd+unix:///x?socket=/s"];
    expect(new Set([here[0] as string, ...others].map((text) => placeOf(parseNbdUri(text)))).size).toBe(5);
  });

  it.each<[string, NbdUri]>([
    ["nbd://example.com", tcp("example.com", 10_809, "")],
    ["nbd://example.com/", tcp("example.com", 10_809, "")],
    ["NBD://example.com:/x", tcp("example.com", 10_809, "x")],
    ["nbd://127.0.0.1:1234/disk", tcp("127.0.0.1", 1234, "disk")],
    ["nbd://[::1]/disk", tcp("::1", 10_809, "disk")],
    ["nbd://[fe80::1%25eth0]:99/a/b", tcp("fe80::1%eth0", 99, "a/b")],
    ["nbd://host//absolute", tcp("host", 10_809, "/absolute")],
    ["nbd://host/a%20b%2Fc%25", tcp("host", 10_809, "a b/c%")],
    ["nbd://host/%C3%A4", tcp("host", 10_809, "ä")],
    ["nbd+unix:///?socket=/tmp/s", unix("/tmp/s", "")],
    ["nbd+unix:///disk?socket=/tmp/s%20s", unix("/tmp/s s", "disk")],
    ["nbd+unix://?socket=relative", unix("relative", "")],
    ["nbd+unix:////x?socket=/s", unix("/s", "/x")],
  ])("reads %s", (text, expected) => {
    expect(parseNbdUri(text)).toEqual(expected);
    expect(isNbdUri(text)).toBe(true);
  });

  it.each([
    ["", "EPARSE"],
    ["/dev/sda", "EPARSE"],
    ["nbd:", "EPARSE"],
    ["nbd:unix:/tmp/s", "EPARSE"],
    ["http://host/", "EPARSE"],
    ["nbd:///export", "EPARSE"],
    ["nbd://host:0", "EPARSE"],
    ["nbd://host:65536", "EPARSE"],
    ["nbd://host:port", "EPARSE"],
    ["nbd://::1/", "EPARSE"],
    ["nbd://[::1/", "EPARSE"],
    ["nbd://user@host/", "EPARSE"],
    ["nbd://host/x?socket=/tmp/s", "EPARSE"],
    ["nbd://host/x#y", "EPARSE"],
    ["nbd://host/%zz", "EPARSE"],
    ["nbd://host/%ff", "EPARSE"],
    ["nbd://host/%00", "EPARSE"],
    [`nbd://host/${"x".repeat(4097)}`, "EPARSE"],
    ["nbd+unix:///x", "EPARSE"],
    ["nbd+unix:///x?socket=", "EPARSE"],
    ["nbd+unix:///x?socket=/a&socket=/b", "EPARSE"],
    ["nbd+unix:///x?socket=/a&more=1", "EPARSE"],
    ["nbd+unix://host/x?socket=/a", "EPARSE"],
    ["nbds://host/x", "ENOTSUP"],
    ["nbds+unix:///x?socket=/a", "ENOTSUP"],
    ["nbd+vsock://3/", "ENOTSUP"],
  ])("refuses %s with %s", (text, code) => {
    expect(codeOf(() => parseNbdUri(text))).toBe(code);
  });

  it("gives back what it printed", () => {
    const name = fc.string({ unit: "binary" }).filter((text) => !text.includes("\0"));
    const host = fc.oneof(
      fc.domain(),
      fc.ipV4(),
      fc.ipV6().filter((address) => address.includes(":")),
    );
    const address = fc.oneof(
      fc.record({ kind: fc.constant("tcp" as const), host, port: fc.integer({ min: 1, max: 65_535 }) }),
      fc.record({ kind: fc.constant("unix" as const), path: name.filter((path) => path !== "") }),
    );
    fc.assert(
      fc.property(address, name, (address, exportName) => {
        const uri = { address, exportName };
        expect(parseNbdUri(formatNbdUri(uri))).toEqual(uri);
      }),
    );
  });

  it("prints nothing that cannot be read back", () => {
    expect(codeOf(() => formatNbdUri(unix("/s", "\ud800")))).toBe("EINVAL");
  });
});

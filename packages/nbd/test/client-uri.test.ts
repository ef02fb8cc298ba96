import { BlockIoError } from "@dmkit/block-io";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { mkdtemp, rm, symlink, link as hardLink } from "node:fs/promises";
import { type Server, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type NbdClientOptions, openNbd } from "../src/client/index.ts";
import { placeOf } from "../src/place.ts";
import { type NbdUri, formatNbdUri, isNbdUri, parseNbdUri } from "../src/uri.ts";

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
    const here = ["localhost", "127.0.0.1:10809", "[::1]", "LOCALHOST:", "127.1", "localhost.", "0.0.0.0"]
      .concat("[::ffff:127.0.0.1]", "[::FFFF:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.2]", "[0:0::0:1]", "[::]")
      .map((host) => `nbd://${host}/x`);
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

  it("that name other machines are told apart, unless they spell one address", () => {
    const places = (hosts: string[]): number =>
      new Set(hosts.map((host) => placeOf(parseNbdUri(`nbd://${host}/x`)))).size;
    expect(places(["10.1.2.3", "[::ffff:10.1.2.3]", "[::ffff:a01:203]"])).toBe(1);
    expect(places(["[fe80::1]", "[fe80:0:0::1]", "[FE80::1]"])).toBe(1);
    expect(places(["[fe80::1%25eth0]", "[fe80::1%25eth1]", "10.1.2.3", "[::ffff:10.1.2.4]", "a", "b"])).toBe(
      6,
    );
  });

  it("of one socket are of one place, whatever links lead to it, also after a new start of the server", async () => {
    const folder = await mkdtemp(join(tmpdir(), "dmkit-"));
    const paths = ["socket", "symbolic", "hard", "other"].map((name) => join(folder, name));
    const [socket = "", symbolic = "", hard = "", other = ""] = paths;
    const listening = (path: string): Promise<Server> =>
      new Promise((resolve) => {
        const server = createServer().listen(path, () => resolve(server));
      });
    const stopped = (server: Server): Promise<unknown> => new Promise((resolve) => server.close(resolve));
    const uris = paths.map((path) => unix(path, "x"));
    const places = (before: readonly string[] = []): string[] =>
      uris.map((uri, index) => placeOf(uri, before[index]));
    try {
      const servers = [await listening(socket), await listening(other)];
      await symlink("socket", symbolic);
      await hardLink(socket, hard);
      const first = places();
      expect(new Set(first).size).toBe(2);
      expect(first[3]).not.toBe(first[0]);
      expect(placeOf(unix(socket, "y"))).not.toBe(first[0]);
      await Promise.all(servers.map(stopped));
      await rm(hard);
      expect(places(first)).toEqual(first);
      const again = await listening(socket);
      expect(places(first)[1]).toBe(places(first)[0]);
      await stopped(again);
    } finally {
      await rm(folder, { recursive: true });
    }
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
    ["nbds://host/x", { ...tcp("host", 10_809, "x"), tls: {} }],
    [
      "nbds://a%2Fb@host:1/x?tls-psk-file=/k%20k",
      { ...tcp("host", 1, "x"), tls: { username: "a/b", pskFile: "/k k" } },
    ],
    [
      "nbds+unix://a%40b@/x?socket=/s&tls-certificates=/c&tls-hostname=h&tls-verify-peer=false",
      {
        ...unix("/s", "x"),
        tls: { username: "a@b", certificates: "/c", hostname: "h", verifyPeer: false },
      },
    ],
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
    ["nbds+vsock://3/", "ENOTSUP"],
    ["nbd://host/x?tls-certificates=/a", "EPARSE"],
    ["nbd+unix:///x?socket=/a&tls-verify-peer=false", "EPARSE"],
    ["nbds://host/x?tls-certificates=/a&tls-psk-file=/b", "EPARSE"],
    ["nbds://host/x?tls-verify-peer=maybe", "EPARSE"],
    ["nbds://host/x?tls-psk-file=", "EPARSE"],
    ["nbds://host/x?socket=/a", "EPARSE"],
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

it.each([
  { readOnly: "yes" },
  { wholeBlocks: 1 },
  { writeThrough: null },
  { readonly: true },
  { connections: 17 },
  { reconnect: Number.NaN },
  { replayBuffer: 5 },
  { connectTimeout: 0 },
  { maxInFlight: "many" },
  { maxInFlightBytes: -1 },
])("options of a client that cannot be are refused before it connects: %o", async (options) => {
  const opening = openNbd("nbd://127.0.0.1:1/x", options as unknown as NbdClientOptions);
  await expect(opening).rejects.toMatchObject({ code: "EINVAL", hint: expect.stringMatching(/\S/) });
});

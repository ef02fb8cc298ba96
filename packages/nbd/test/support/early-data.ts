/** A session that lets a client send data before the server has said anything, which ours never grants. */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { type SecureContextOptions, type TLSSocket, connect, createServer } from "node:tls";

/** A tag, and what is inside it. */
function der(tag: number, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  const bytes = length.subarray(length.findIndex((byte) => byte > 0));
  const head = body.length < 128 ? [tag, body.length] : [tag, 0x80 + bytes.length, ...bytes];
  return Buffer.concat([Buffer.from(head), body]);
}

/** Where the body of the element at `at` begins, and where the next element does. */
function element(bytes: Buffer, at: number): { body: number; end: number } {
  const first = bytes[at + 1] as number;
  const size = first < 128 ? 0 : first - 128;
  const body = at + 2 + size;
  return { body, end: body + (size === 0 ? first : bytes.readUIntBE(at + 2, size)) };
}

/**
 * A session of a server with this certificate, as `openssl s_client -sess_in` reads it, into which is written that early
 * data are welcome: field 15 of OpenSSL's structure, behind which are 16 and more.
 */
export async function earlySession(certificate: SecureContextOptions): Promise<string> {
  const server = createServer({ ...certificate, minVersion: "TLSv1.3" }, (socket) => socket.resume());
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const client: TLSSocket = connect({ port, host: "127.0.0.1", rejectUnauthorized: false });
  const [session] = (await once(client, "session")) as [Buffer];
  client.destroy();
  server.close();
  const before: Buffer[] = [];
  const behind: Buffer[] = [];
  for (let at = element(session, 0).body; at < session.length; at = element(session, at).end) {
    const field = session.subarray(at, element(session, at).end);
    ((field[0] as number) >= 0xb0 ? behind : before).push(field);
  }
  const welcome = der(0xaf, der(0x02, Buffer.from([0x40, 0x00])));
  const base64 = der(0x30, ...before, welcome, ...behind).toString("base64");
  // An empty line would end it: certificates differ in length.
  const lines = (base64.match(/.{1,64}/g) ?? []).join("\n");
  return `-----BEGIN SSL SESSION PARAMETERS-----\n${lines}\n-----END SSL SESSION PARAMETERS-----\n`;
}

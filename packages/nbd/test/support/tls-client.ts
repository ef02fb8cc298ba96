/** A raw client that goes on with TLS. */
import type { Socket } from "node:net";
import { type ConnectionOptions, type TLSSocket, connect } from "node:tls";
import { OPT } from "../../src/protocol.ts";
import { RawClient } from "./raw-client.ts";

/** TLS on a stream whose plain text has ended. Rejects if the handshake fails or the server hangs up. */
export function secured(client: RawClient, options: ConnectionOptions): Promise<RawClient> {
  const stream = client.stream as Socket;
  stream.removeAllListeners("data");
  return new Promise((resolve, reject) => {
    const socket: TLSSocket = connect({
      socket: stream,
      allowHalfOpen: true,
      ...options,
    } as ConnectionOptions);
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("closed")));
    socket.once("secureConnect", () => resolve(new RawClient(socket)));
  });
}

/** Greets, asks for TLS, and shakes hands. */
export async function startTls(client: RawClient, options: ConnectionOptions): Promise<RawClient> {
  await client.greet();
  await client.negotiate(OPT.STARTTLS);
  return secured(client, options);
}

/**
 * TLS of a client: who the server must be, and how the client shows who it is.
 *
 * Invariant: a server is believed because of a certificate that was checked, or because it knows the key; where a key
 * was to be used, no certificate replaces it. Only `verifyPeer: false` takes anybody.
 */
import type { Socket } from "node:net";
import { isIP } from "node:net";
import { userInfo } from "node:os";
import type { ConnectionOptions, PeerCertificate, TLSSocket } from "node:tls";
import { refuse } from "@dmkit/block-io";
import type { NbdUri, NbdUriTls } from "../uri.ts";
import { MIN_VERSION, PSK_CIPHERS } from "./ciphers.ts";
import { type Material, MaterialStore } from "./material.ts";

/** Begins with TLS on a connection; the socket it returns has yet to shake hands. */
export type BeginTls = (socket: Socket) => TLSSocket;

/**
 * Reads what is needed, as it is now; what comes then needs no more waiting. Rejects with `ENOENT`, `EACCES`, `EFORMAT` for
 * files, and for an identity without a key.
 */
export async function prepareTls({ address, tls = {} }: NbdUri): Promise<BeginTls> {
  const { connect, checkServerIdentity, createSecureContext } = await import("node:tls");
  const { certificates, pskFile: psk, verifyPeer = true } = tls;
  const store = new MaterialStore({ certificates, psk }, "client", verifyPeer, ({ cert, key, ca, crl }) => {
    createSecureContext({ cert, key, ca, crl });
  });
  const material = store.read();
  const host = tls.hostname ?? (address.kind === "tcp" ? address.host : undefined);
  const options: ConnectionOptions = {
    minVersion: MIN_VERSION,
    // An address is no name to be asked for; "" asks for none.
    servername: host === undefined || isIP(host) !== 0 ? "" : host,
    ...(psk === undefined
      ? {
          ...certificatesOf(material),
          rejectUnauthorized: verifyPeer,
          // A unix socket has no name: whoever signed for the server is all there is to be checked.
          checkServerIdentity: (_: string, shown: PeerCertificate) =>
            host === undefined ? undefined : checkServerIdentity(host, shown),
        }
      : pskOptions(material, tls, psk)),
  };
  return (socket) => connect({ ...options, socket });
}

function certificatesOf({ cert, key, ca, crl }: Material): ConnectionOptions {
  return { cert, key, ca, ...(crl === undefined ? {} : { crl }) };
}

function pskOptions(material: Material, { username }: NbdUriTls, file: string): ConnectionOptions {
  const identity = username ?? userInfo().username;
  const psk = material.psk?.get(identity);
  if (psk === undefined) {
    throw refuse(
      file,
      "ENOENT",
      `holds no key of "${identity}"`,
      "Name the identity in the URI: nbds://IDENTITY@HOST or nbds+unix://IDENTITY@/",
    );
  }
  return {
    ciphers: PSK_CIPHERS,
    pskCallback: () => ({ psk, identity }),
    // TLS 1.3 lets a server show a certificate instead, and many an authority would vouch for it.
    checkServerIdentity: (_, shown) =>
      Object.keys(shown).length === 0
        ? undefined
        : new Error("the server showed a certificate instead of knowing the pre-shared key"),
  };
}

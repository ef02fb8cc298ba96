/** The URIs of what is listened at, for whoever is told where to connect. */
import type { Listener, NbdUri } from "@dmkit/nbd";

/** One for each listener and export. */
export function urisOf(
  listeners: readonly Listener[],
  exports: readonly { readonly name: string }[],
): NbdUri[] {
  return listeners.flatMap((listener) => {
    const address = addressOf(listener);
    const tls = tlsOfUri(listener);
    return address === undefined ? [] : exports.map(({ name }) => ({ address, exportName: name, ...tls }));
  });
}

/** What a client on this machine can use: the server's own files. */
function tlsOfUri({ tls, identity }: Listener): Pick<NbdUri, "tls"> {
  if (tls?.mode !== "require") return {};
  return { tls: { certificates: tls.certificates, pskFile: tls.psk, username: identity } };
}

/** Undefined for an inherited socket that has none anybody could be told. */
function addressOf({ path, host, port }: Listener): NbdUri["address"] | undefined {
  if (path !== undefined) return { kind: "unix", path };
  return host === undefined || port === undefined ? undefined : { kind: "tcp", host, port };
}

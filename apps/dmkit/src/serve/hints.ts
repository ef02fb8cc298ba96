/** What to type next: commands that work when they are pasted. */
import { basename } from "node:path";
import { describeSize, printable, shellQuote } from "@dmkit/block-io";
import { type NbdUri, formatNbdUri } from "@dmkit/nbd";
import type { ExportSnapshot } from "../manager/snapshot.ts";

// Root needs no help, and on small systems has none.
const sudo = process.getuid?.() === 0 ? "" : "sudo ";

/**
 * Lines for a person who has just started a server and wants a file system on it.
 * @param control the path of the control socket, if there is one.
 * @param named whether the verbs have to be told where that is.
 */
export function attachHints(
  uris: readonly NbdUri[],
  exports: readonly ExportSnapshot[],
  control: { readonly path: string; readonly named: boolean } | undefined,
  metrics: { readonly url: string; readonly page: string | undefined } | undefined,
): string {
  const [first] = uris;
  if (first === undefined) return "Nothing is exported yet: dmkit create, dmkit export add\n";
  const uri = shellQuote(formatNbdUri(first));
  // A comma would end the value.
  const isReadOnly = exports[0]?.readOnly === true;
  const drive = shellQuote(
    `file=${formatNbdUri(first).replaceAll(",", ",,")},format=raw,if=virtio${isReadOnly ? ",readonly=on" : ""}`,
  );
  const folder = "/tmp/dmkit-nbd";
  const mount = "/tmp/dmkit-mnt";
  const lines = exports.map(
    ({ name, description, size, readOnly }) =>
      `  ${name === "" ? "(default)" : printable(name)}: ${description === "" ? "" : `${printable(description)}, `}${describeSize(size)}${
        readOnly ? ", read-only" : ""
      }`,
  );
  return `Serving ${printable(formatNbdUri(first))}
${lines.join("\n")}

Type in another terminal (packages: libnbd-bin, nbdfuse, qemu-utils, nbd-client):

  Look at it         nbdinfo ${uri}
  File system        mkdir -p ${folder} ${mount}; nbdfuse ${folder} ${uri} & sleep 1; ${isReadOnly ? "" : `mkfs.ext4 ${folder}/nbd && `}${sudo}mount -o ${isReadOnly ? "ro," : ""}loop ${folder}/nbd ${mount}
${first.tls === undefined ? `  Virtual machine    qemu-system-x86_64 -drive ${drive}\n${kernelHint(first)}` : ""}${controlHint(control)}${metrics === undefined ? "" : `  Metrics            curl ${metrics.url}\n`}${metrics?.page === undefined ? "" : `  Look at it live    ${metrics.page}\n`}
Ctrl-C ends the server; what was flushed is safe at any time.
`;
}

function kernelHint({ address, exportName }: NbdUri): string {
  const name = exportName === "" ? "" : ` -N ${shellQuote(exportName)}`;
  const where =
    address.kind === "unix"
      ? `-unix ${shellQuote(address.path)}`
      : `${address.host.replace(/[[\]]/g, "")} ${address.port}`;
  return `  Kernel device      ${sudo}nbd-client ${where} /dev/nbd0${name}\n`;
}

function controlHint(control: { readonly path: string; readonly named: boolean } | undefined): string {
  if (control === undefined) return "";
  // There may be other servers, or come to be.
  const isOwn = basename(control.path) === `${process.pid}.sock`;
  const where = control.named ? ` -C ${shellQuote(control.path)}` : isOwn ? ` -C ${process.pid}` : "";
  return `  Operate it         dmkit ls --tree${where}\n`;
}

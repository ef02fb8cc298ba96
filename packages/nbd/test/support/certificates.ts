/** Certificates made for one run of the tests, by openssl: what is valid for two days cannot lie in a repository. */
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const hasOpenssl: boolean = spawnSync("which", ["openssl"]).status === 0;

export const PSK = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/** A certificate authority, and folders and files as TLS options name them. */
export class Certificates {
  readonly folder: string = mkdtempSync(join(tmpdir(), "dmkit-tls-"));

  constructor() {
    this.#openssl(
      `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca -keyout ca-key.pem -out ca-cert.pem`,
    );
    writeFileSync(
      join(this.folder, "ca.cnf"),
      `[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial\ndefault_md=sha256\ndefault_crl_days=2\n`,
    );
    writeFileSync(join(this.folder, "index.txt"), "");
    writeFileSync(
      join(this.folder, "keys.psk"),
      `# who may come\nalice:${PSK}\nbob:${PSK.replaceAll("0", "f")}\n`,
    );
  }

  get psk(): string {
    return join(this.folder, "keys.psk");
  }

  dispose(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** A folder with the authority's certificate, and one that it signed, for a server or client. With 0 days it is over. */
  issue(folder: string, role: "server" | "client", name: string, days = 2): string {
    const path = join(this.folder, folder);
    mkdirSync(path, { recursive: true });
    const usage = role === "server" ? "serverAuth" : "clientAuth";
    writeFileSync(
      join(this.folder, "ext.cnf"),
      `extendedKeyUsage=${usage}\nsubjectAltName=DNS:${name},IP:127.0.0.1\n`,
    );
    const pem = (what: string): string => join(folder, `${role}-${what}.pem`);
    this.#openssl(
      `req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=${name} -keyout ${pem("key")} -out request.pem`,
    );
    this.#openssl(
      `x509 -req -in request.pem -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days ${days} -extfile ext.cnf -out ${pem("cert")}`,
    );
    copyFileSync(join(this.folder, "ca-cert.pem"), join(path, "ca-cert.pem"));
    return path;
  }

  /** Withdraws a certificate: the folder gets a list that says so. */
  revoke(cert: string, into: string): void {
    this.#openssl(`ca -config ca.cnf -keyfile ca-key.pem -cert ca-cert.pem -revoke ${cert}`);
    this.#openssl(
      `ca -config ca.cnf -keyfile ca-key.pem -cert ca-cert.pem -gencrl -out ${join(into, "ca-crl.pem")}`,
    );
  }

  #openssl(command: string): void {
    execFileSync("openssl", command.split(" "), { cwd: this.folder, stdio: "pipe" });
  }
}

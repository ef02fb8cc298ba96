/** A proxy that cuts connections: after a given number of bytes, or when it is told. */
import { rmSync } from "node:fs";
import { type Socket, connect, createServer } from "node:net";
import { freshSocket, uriOf } from "./client-servers.ts";

export class Proxy {
  readonly socket: string = freshSocket();
  readonly #target: string;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  // Half-open, so that what a client sent before it hung up is still carried out.
  #listening = createServer();
  connections = 0;
  /** Bytes that may still pass towards the client and towards the server before all is cut. */
  toClient: number = Number.POSITIVE_INFINITY;
  toServer: number = Number.POSITIVE_INFINITY;
  /** Bytes that have passed. */
  passedToClient = 0;
  passedToServer = 0;
  /** Called when the number of bytes is used up. */
  onCut: () => void = () => {};

  constructor(target: string) {
    this.#target = target;
  }

  get uri(): string {
    return uriOf(this.socket);
  }

  async start(): Promise<this> {
    rmSync(this.socket, { force: true });
    this.#listening = createServer({ allowHalfOpen: true }, (client) => this.#accept(client));
    await new Promise<void>((resolve) => this.#listening.listen({ path: this.socket }, resolve));
    return this;
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#listening.close(resolve));
  }

  /** Cuts everything. New connections pass. */
  cut(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
    this.#pairs.clear();
  }

  /** Cuts the connection with this number, in order of arrival. */
  cutOne(index: number): void {
    for (const socket of [...this.#pairs][index] ?? []) socket.destroy();
  }

  #accept(client: Socket): void {
    this.connections += 1;
    const server = connect({ path: this.#target, allowHalfOpen: true });
    const pair = [client, server] as const;
    this.#pairs.add(pair);
    for (const socket of pair) {
      socket.on("error", () => {});
      socket.on("close", () => {
        this.#pairs.delete(pair);
        client.destroy();
        server.destroy();
      });
    }
    client.on("end", () => server.end());
    server.on("end", () => client.end());
    client.on("data", (bytes: Buffer) => {
      const count = Math.min(bytes.length, this.toServer);
      this.toServer -= count;
      this.passedToServer += count;
      server.write(bytes.subarray(0, count), () => this.#cutAt(this.toServer));
    });
    server.on("data", (bytes: Buffer) => {
      const count = Math.min(bytes.length, this.toClient);
      this.toClient -= count;
      this.passedToClient += count;
      client.write(bytes.subarray(0, count), () => this.#cutAt(this.toClient));
    });
  }

  #cutAt(left: number): void {
    if (left > 0) return;
    this.toClient = Number.POSITIVE_INFINITY;
    this.toServer = Number.POSITIVE_INFINITY;
    this.onCut();
    this.cut();
  }
}

/** `rbd:POOL/IMAGE` as a device: an NBD client of a server that is there for it alone. */
import {
  type BlockDevice,
  type BlockIoError,
  type DeviceOpener,
  type Health,
  LinearDevice,
  type UriScheme,
  healthOf,
  worstHealth,
} from "@dmkit/block-io";
import type { CaptiveServer } from "./captive.ts";
import { absoluteRbd, parseRbd } from "./reference.ts";

// Bytes of unflushed writes that are repeated when the server was started again.
const REPLAY = 64 * 1024 * 1024;

class RbdDevice extends LinearDevice {
  readonly #client: BlockDevice;
  readonly #server: CaptiveServer;

  constructor(name: string, client: BlockDevice, server: CaptiveServer) {
    super(client, 0, client.size, name);
    this.#client = client;
    this.#server = server;
  }

  override health(): Health {
    return worstHealth([this.#server.health(), super.health(), healthOf(this.#client)]);
  }

  protected override async doClose(): Promise<void> {
    try {
      await this.#client.close();
    } finally {
      await this.#server.close();
    }
  }
}

const open: DeviceOpener = async (reference, access, environment) => {
  const image = parseRbd(reference);
  const readOnly = access === "read" || image.snapshot !== undefined;
  // Loaded only by who opens such an image.
  const captive = await import("./captive.ts");
  const { openNbd } = await import("../nbd-client.ts");
  const server = await captive.CaptiveServer.start(image, readOnly, environment);
  try {
    const { reconnect } = image;
    const replayBuffer = readOnly ? 0 : REPLAY;
    const lost = (): Promise<BlockIoError | undefined> => server.whyNever();
    const options = { environment, name: reference, lost, readOnly, reconnect, replayBuffer };
    const client = await openNbd(server.uri, options);
    return new RbdDevice(reference, client, server);
  } catch (error) {
    await server.close();
    throw error;
  }
};

/** The URI scheme `rbd`. */
export const rbd: UriScheme = { open, absolute: absoluteRbd };

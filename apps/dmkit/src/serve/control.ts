/** The control socket of a server: at the path it was told, or at the user's default, which it can do without. */
import { resolve } from "node:path";
import { type Environment, codeOf, toBlockIoError } from "@dmkit/block-io";
import { type ControlledServer, controlMethods } from "../control/methods.ts";
import { ControlServer } from "../control/server.ts";
import { Moments } from "../moment/moments.ts";
import { CONTROL_VARIABLE, ownSocket } from "../control/sockets.ts";

export interface ControlSettings {
  /** Told by the command line or the stack file. */
  readonly path: string | undefined;
  /** Whether to listen at the default path where none was told. */
  readonly wanted: boolean;
  readonly version: string;
  readonly environment: Environment;
}

export interface Control {
  readonly path: string;
  /** What tells the verbs where it is. */
  readonly variables: Readonly<Record<string, string>>;
  close(): Promise<void>;
}

/** Errors: those of listening at a path that was told. */
export async function startControl(
  controlled: ControlledServer,
  { path, wanted, version, environment }: ControlSettings,
): Promise<Control | undefined> {
  const moments = new Moments(controlled.devices, environment);
  const methods = controlMethods({ ...controlled, moments });
  const server = new ControlServer({ environment, version, methods });
  const given = path ?? process.env[CONTROL_VARIABLE];
  const isTold = given !== undefined && given !== "" && !/^\d+$/.test(given);
  if (!isTold && !wanted) return undefined;
  const close = async (): Promise<void> => {
    await Promise.all([server.close(), moments.close()]);
  };
  const listen = async (place: string): Promise<Control> => {
    await server.listen(place);
    return { path: place, variables: { [CONTROL_VARIABLE]: place }, close };
  };
  try {
    if (isTold) return await listen(resolve(given));
  } catch (error) {
    // The variable is also there for a server that another one runs, and is that one's socket.
    if (path !== undefined || codeOf(error) !== "EADDRINUSE") throw error;
  }
  try {
    return await listen(ownSocket());
  } catch (error) {
    // Clients are served without it all the same.
    const { message, hint } = toBlockIoError(error, { op: "listen" });
    environment.logger.log("info", "no control socket", { message, hint });
    return undefined;
  }
}

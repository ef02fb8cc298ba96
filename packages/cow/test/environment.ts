import { type Environment, type LogLevel, realEnvironment } from "@dmkit/block-io";

/** The real environment, with a logger that hands on levels and texts. */
export function environment(log: (level: LogLevel, message: string) => void): Environment {
  return { ...realEnvironment, logger: { log } };
}

/** The environment of commands that keep no log: what is warned of goes to stderr, as their errors do. */
import { type Environment, realEnvironment } from "@dmkit/block-io";
import { printWarning } from "./terminal.ts";

export const commandEnvironment: Environment = {
  ...realEnvironment,
  logger: {
    log(level, message, fields) {
      if (level === "warn" || level === "error") printWarning(message, fields);
    },
  },
};

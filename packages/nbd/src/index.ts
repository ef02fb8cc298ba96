export * as protocol from "./protocol.ts";

export * as protocol from "./protocol.ts";
export { type ExportStatus, type NbdServerOptions, type ServerStatistics, NbdServer } from "./server.ts";
export type { ClientStatus } from "./server/client-status.ts";
export { type AccessOptions, type NamedAccess, Access, AddressList } from "./server/exports/access.ts";
export { type ExportOptions, type RemovalMode } from "./server/exports/export.ts";
export { type ServerTlsOptions, checkNames, checkServerTls, tlsModes } from "./tls/server-tls.ts";
export { LONGEST_SOCKET_PATH } from "./server/io/unix-socket.ts";
export { MOST_CONNECTIONS, type ServerLimits, defaultLimits } from "./server/limits.ts";
export {
  type ListenOptions,
  type ListenPolicy,
  type Listener,
  NBD_PORT,
  isLoopback,
  listen as listenStreams,
} from "./server/io/listener.ts";
export { type RequestEvent, type RequestListener } from "./server/requests/request-log.ts";
export { type MetaContext, type StatusExtent, baseAllocation } from "./server/exports/meta-contexts.ts";
export {
  type CountedOperation,
  type ExportStatistics,
  type OperationStatistics,
  countedOperations,
} from "./server/exports/statistics.ts";
export * from "./client/index.ts";
export { type NbdAddress, type NbdUri, type NbdUriTls, formatNbdUri, isNbdUri, parseNbdUri } from "./uri.ts";

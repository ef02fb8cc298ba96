/** A client as the server sees it, for whoever looks at the server. What it says of itself is nobody's word but its own. */
export interface ClientStatus {
  /** Different for every connection of a server's life. */
  readonly id: number;
  readonly export: string;
  /** Undefined for one on a Unix socket or a stream. */
  readonly address: string | undefined;
  /** What its certificate or key says it is; undefined without. */
  readonly identity: string | undefined;
  readonly tls: boolean;
  readonly readOnly: boolean;
  /** When it came; milliseconds since 1970. */
  readonly since: number;
  /** Requests under way. */
  readonly inFlight: number;
  /** Requests answered, errors included. */
  readonly requests: number;
  /** Bytes of its reads and writes that succeeded. */
  readonly bytes: number;
  readonly errors: number;
}

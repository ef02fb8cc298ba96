/** Why the page is not served at other addresses, and what to do instead. */
export const PAGE_IS_LOCAL = [
  "the page shows names, paths and clients, without TLS: it is for this machine only",
  "host: 127.0.0.1; from elsewhere: ssh -L 9100:127.0.0.1:9100 HOST, and open http://localhost:9100/",
] as const;

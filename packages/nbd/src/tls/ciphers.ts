/** What of TLS is spoken, by servers and clients alike: nothing before 1.2, and keys that are not kept. */

/** The least version. */
export const MIN_VERSION = "TLSv1.2";

/** With pre-shared keys there is no certificate: every suite of 1.2 in this list needs the key. */
export const PSK_CIPHERS: string = [
  "TLS_AES_128_GCM_SHA256",
  "TLS_CHACHA20_POLY1305_SHA256",
  "TLS_AES_256_GCM_SHA384",
  "ECDHE-PSK-CHACHA20-POLY1305",
  "DHE-PSK-CHACHA20-POLY1305",
  "DHE-PSK-AES256-GCM-SHA384",
  "DHE-PSK-AES128-GCM-SHA256",
  "ECDHE-PSK-AES256-CBC-SHA384",
  "ECDHE-PSK-AES128-CBC-SHA256",
].join(":");

import { Duplex } from "node:stream";

/** Two ends of a connection without a socket: what is written to one is read from the other. */
export function streamPair(): [Duplex, Duplex] {
  const make = (other: () => Duplex): Duplex =>
    new Duplex({
      read() {},
      write(chunk, _, callback) {
        if (!other().destroyed) other().push(chunk);
        setImmediate(() => callback());
      },
      final(callback) {
        if (!other().destroyed) other().push(null);
        callback();
      },
      destroy(error, callback) {
        if (!other().destroyed) other().push(null);
        callback(error);
      },
    });
  const one: Duplex = make(() => two);
  const two: Duplex = make(() => one);
  return [one, two];
}

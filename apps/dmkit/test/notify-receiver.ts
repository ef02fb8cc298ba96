/** Who receives what a service manager is told; Node has no datagrams on unix sockets. */
import { spawn } from "node:child_process";
import { cleanUp, until } from "./support.ts";

// What is received is printed, a line a datagram.
const receiver = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1].replace("@", chr(0)))
print("bound", flush=True)
while True: print(s.recv(4096).decode().replace(chr(10), " "), flush=True)
`;

/** @param address a path, or `@NAME` of an abstract socket. Returns what was received so far. */
export async function receive(address: string): Promise<() => string> {
  const child = spawn("python3", ["-c", receiver, address], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => (text += chunk.toString()));
  cleanUp(() => void child.kill("SIGKILL"));
  await until(() => text.includes("bound\n"), "the receiver");
  return () => text;
}

/** `dmkit serve` as a user starts, uses and stops it. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, renameSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { realEnvironment } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { cli } from "./cli.ts";
import {
  cleanUp,
  describeWith,
  dmkit,
  main,
  run,
  serve,
  tempFolder,
  until,
  untilInFlight,
} from "./support.ts";
import { removePidfile, writePidfile } from "../src/serve/pidfile.ts";

function image(folder: string, name = "disk.img", size = 2 ** 20): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

async function firstByte(uri: string): Promise<number | undefined> {
  const device = await openNbd(uri, { environment: realEnvironment });
  const into = Buffer.alloc(512);
  await device.read(0, into);
  await device.close();
  return into[0];
}

describe("serve", () => {
  it("serves a file, writes reach it, SIGTERM ends it with status 0 and no socket is left", async () => {
    const folder = tempFolder();
    const path = image(folder);
    const socket = join(folder, "s");
    const server = await serve(["-U", socket, path]);
    expect(server.uri).toBe(`nbd+unix:///?socket=${socket}`);
    expect(statSync(socket).mode & 0o777).toBe(0o600);
    const device = await openNbd(server.uri, { environment: realEnvironment });
    await device.write(0, Buffer.alloc(512, 7), { fua: true });
    await device.close();
    expect(await server.stop()).toBe(0);
    expect(existsSync(socket)).toBe(false);
    expect(readFileSync(path)[0]).toBe(7);
  });

  it("listens on TCP, a free port if asked", async () => {
    const server = await serve(["-p", "0", image(tempFolder())]);
    expect(server.uri).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+$/);
    expect(await firstByte(server.uri)).toBe(0);
  });

  it("serves a table over several files", async () => {
    const folder = tempFolder();
    const [a, b] = [image(folder, "a"), image(folder, "b")];
    const server = await serve(["--table", `0 1024 linear ${a} 0`, "--table", `1024 1024 linear ${b} 8`]);
    const device = await openNbd(server.uri, { environment: realEnvironment });
    expect(device.size).toBe(2 ** 20);
    await device.write(1024 * 512 - 512, Buffer.alloc(1024, 5), { fua: true });
    await device.close();
    expect(readFileSync(a)[1024 * 512 - 1]).toBe(5);
    expect(readFileSync(b)[8 * 512]).toBe(5);
  });

  it("serves RAM disks and other servers", async () => {
    const first = await serve(["mem:1M"]);
    const second = await serve([first.uri]);
    const device = await openNbd(second.uri, { environment: realEnvironment });
    await device.write(4096, Buffer.alloc(4096, 3));
    const into = Buffer.alloc(4096);
    await device.read(4096, into);
    expect(into[4095]).toBe(3);
    await device.close();
    expect(await second.stop()).toBe(0);
    expect(await first.stop()).toBe(0);
  });

  it("serves read-only what may not be changed", async () => {
    const server = await serve(["-r", image(tempFolder())]);
    const device = await openNbd(server.uri, { environment: realEnvironment, readOnly: true });
    await expect(device.write(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "EROFS" });
    await device.close();
  });

  it("creates missing files and preallocates when asked", async () => {
    const path = join(tempFolder(), "new.img");
    await serve(["--create", "4M", "--preallocate", path]);
    expect(statSync(path).size).toBe(4 * 2 ** 20);
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(4 * 2 ** 20);
  });

  it("serves the embedded default in its data folder, the same contents every time", async () => {
    const data = join(tempFolder(), "data");
    const first = await serve(["--data", data, "--create", "1M"]);
    const device = await openNbd(first.uri, { environment: realEnvironment });
    await device.write(0, Buffer.alloc(512, 9));
    await device.close();
    expect(await first.stop()).toBe(0);
    const second = await serve(["--data", data]);
    expect(await firstByte(second.uri)).toBe(9);
    await second.stop();
    // One of its files without the other is no disk, and no reason to make a new one.
    for (const file of ["cache.img", "backing.img"]) {
      renameSync(join(data, file), join(data, "away"));
      const { code, stderr } = await dmkit(["serve", "--data", data, "--run", "true"]);
      expect([code, stderr]).toEqual([1, expect.stringContaining(`${join(data, file)}: open: is missing`)]);
      expect(stderr).toContain("move");
      expect(existsSync(join(data, file))).toBe(false);
      renameSync(join(data, "away"), join(data, file));
    }
  });

  it("writes the pid file when ready and removes it at the end", async () => {
    const folder = tempFolder();
    const pidfile = join(folder, "pid");
    const server = await serve(["--pidfile", pidfile, image(folder)]);
    expect(readFileSync(pidfile, "utf8")).toBe(`${server.process.pid}\n`);
    await server.stop();
    expect(existsSync(pidfile)).toBe(false);
  });

  it("writes its pid over a pid or nothing, and over no other file", () => {
    const path = join(tempFolder(), "pid");
    // Larger than any there is.
    for (const before of ["", "4999999\n", `${process.pid}\n`]) {
      writeFileSync(path, before);
      writePidfile(path);
      expect(readFileSync(path, "utf8")).toBe(`${process.pid}\n`);
    }
    for (const contents of ["notes\n", "12 monkeys", Buffer.alloc(4096)]) {
      writeFileSync(path, contents);
      expect(() => writePidfile(path)).toThrowError(expect.objectContaining({ code: "EEXIST" }));
      expect(readFileSync(path).equals(Buffer.from(contents))).toBe(true);
    }
  });

  it("does not replace the pid of a process that runs", () => {
    const path = join(tempFolder(), "pid");
    writeFileSync(path, `${process.ppid}\n`);
    expect(() => writePidfile(path)).toThrowError(expect.objectContaining({ code: "EBUSY" }));
    removePidfile(path);
    expect(readFileSync(path, "utf8")).toBe(`${process.ppid}\n`);
  });

  it("says that the folder of the pid file is missing", () => {
    expect(() => writePidfile(join(tempFolder(), "none", "pid"))).toThrow(
      expect.objectContaining({ code: "ENOENT", hint: expect.stringContaining("mkdir") }),
    );
  });

  it("leaves the pid file of a running server alone when a second one cannot start", async () => {
    const folder = tempFolder();
    const pidfile = join(folder, "pid");
    const socket = join(folder, "s");
    const server = await serve(["-U", socket, "--pidfile", pidfile, "mem:1M"]);
    expect((await dmkit(["serve", "-U", socket, "--pidfile", pidfile, "mem:1M"])).code).toBe(1);
    expect(readFileSync(pidfile, "utf8")).toBe(`${server.process.pid}\n`);
  });

  it("ends in order when its terminal goes away", async () => {
    const server = await serve([image(tempFolder())]);
    expect(await server.stop("SIGHUP")).toBe(0);
  });

  it("takes over a socket nobody listens on", async () => {
    const folder = tempFolder();
    const socket = join(folder, "s");
    const path = image(folder);
    const killed = await serve(["-U", socket, path]);
    await killed.stop("SIGKILL");
    expect(existsSync(socket)).toBe(true);
    const server = await serve(["-U", socket, path]);
    expect(await firstByte(server.uri)).toBe(0);
  });

  it("ends when its parent does", async () => {
    const folder = tempFolder();
    const socket = join(folder, "s");
    const script = `"${process.execPath}" "${main}" serve -q --exit-with-parent -U "${socket}" mem:1M & sleep 60`;
    const shell = spawn("/bin/sh", ["-c", script], { stdio: "ignore", detached: true });
    cleanUp(() => {
      try {
        process.kill(-(shell.pid as number), "SIGKILL");
      } catch {
        // Everybody is gone already.
      }
    });
    await until(() => existsSync(socket), "the server");
    shell.kill("SIGKILL");
    await until(() => !existsSync(socket), "the server's end");
  });

  it("ends at once where its parent was gone before it began", async () => {
    const socket = join(tempFolder(), "s");
    const script = `(sleep 0.1; exec "${process.execPath}" "${main}" serve -q --exit-with-parent -U "${socket}" mem:1M) & echo $!`;
    // In a session of its own: who takes its place is in another one.
    const shell = spawn("/bin/sh", ["-c", script], { stdio: ["ignore", "pipe", "ignore"], detached: true });
    const pid = await new Promise<number>((resolve) =>
      shell.stdout.once("data", (text: Buffer) => resolve(Number(text))),
    );
    const isThere = (): boolean => existsSync(`/proc/${pid}`);
    cleanUp(() => {
      if (isThere()) process.kill(pid, "SIGKILL");
    });
    await until(() => !isThere(), "the server's end");
    expect(existsSync(socket)).toBe(false);
  });

  describe("uses the socket a service manager hands over", () => {
    /** What a server with this listening socket as descriptor 3 prints first. */
    async function activated(where: { port: number } | { path: string }, served: string): Promise<string> {
      const listener = createServer();
      await new Promise<void>((resolve) => listener.listen({ host: "127.0.0.1", ...where }, resolve));
      const { _handle: handle } = listener as unknown as { _handle: { fd: number } };
      // LISTEN_PID must be the server's own: the shell sets it and becomes the server.
      const script = `LISTEN_PID=$$ LISTEN_FDS=1 exec "${process.execPath}" "${main}" serve -q --print-uri "${served}"`;
      const child: ChildProcess = spawn("/bin/sh", ["-c", script], {
        stdio: ["ignore", "pipe", "inherit", handle.fd],
      });
      cleanUp(() => void child.kill("SIGKILL"));
      const printed = await new Promise<Buffer>((resolve) => child.stdout?.once("data", resolve));
      // The child has it now; two who accept from one socket would share the clients.
      // Node removes the name of a unix socket when it closes it.
      if ("path" in where) renameSync(where.path, `${where.path}~`);
      listener.close();
      if ("path" in where) renameSync(`${where.path}~`, where.path);
      return printed.toString().trim();
    }

    it("of TCP", async () => {
      const uri = await activated({ port: 0 }, image(tempFolder()));
      expect(await firstByte(uri)).toBe(0);
    });

    it("of a unix socket, also instead of what a stack file says", async () => {
      const folder = tempFolder();
      const stack = join(folder, "stack.yaml");
      const [path, other] = [join(folder, "s"), join(folder, "other")];
      writeFileSync(
        stack,
        `devices:\n  disk: ${image(folder)}\nexports:\n  disk: disk\nlisten:\n  - unix: ${other}\n`,
      );
      const uri = await activated({ path }, stack);
      expect(uri).toBe(`nbd+unix:///disk?socket=${path}`);
      expect(await firstByte(uri)).toBe(0);
      expect(existsSync(other)).toBe(false);
    });

    it("and says what of the command line and of a stack file is of no use beside it", async () => {
      const folder = tempFolder();
      const stack = join(folder, "stack.yaml");
      writeFileSync(stack, `devices: { disk: mem:1M }\nlisten: [{ unix: ./nobody }]\n`);
      const script = `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`;
      const handedOver = (...args: string[]): ReturnType<typeof run> =>
        run("/bin/sh", ["-c", script, process.execPath, main, "serve", ...args]);
      const [bind, single, file] = await Promise.all([
        handedOver("--bind", "127.0.0.2", "mem:1M"),
        handedOver("--single", "mem:1M"),
        // Descriptor 3 is no socket: that is found out after.
        handedOver(stack),
      ]);
      expect([bind.code, single.code]).toEqual([2, 2]);
      expect(bind.stderr).toMatch(/--bind is for a TCP port.*LISTEN_FDS=1/);
      expect(single.stderr).toMatch(/LISTEN_FDS=1.*--single/);
      expect(file.stderr).toMatch(/not what the stack file says.*nobody/);
    });
  });

  it("ends when its only client says goodbye, though that one hangs up later", async () => {
    const child = spawn(process.execPath, [main, "serve", "--single", image(tempFolder())], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const ended = new Promise((resolve) => child.on("exit", resolve));
    const some = (): Promise<Buffer> => new Promise((resolve) => child.stdout.once("data", resolve));
    await some();
    // Flags, and EXPORT_NAME of the default export.
    child.stdin.write(
      Buffer.from("\u0000\u0000\u0000\u0003IHAVEOPT\u0000\u0000\u0000\u0001\u0000\u0000\u0000\u0000"),
    );
    const answer = await some();
    // Alone: CAN_MULTI_CONN is not offered.
    expect(answer.readUInt16BE(8) & 0x100).toBe(0);
    const disconnect = Buffer.alloc(28);
    disconnect.writeUInt32BE(0x25609513);
    disconnect.writeUInt16BE(2, 6);
    child.stdin.write(disconnect);
    expect(await ended).toBe(0);
  });

  it("serves a table that is longer than a description can be", async () => {
    const path = image(tempFolder());
    const lines = Array.from({ length: 200 }, (_, index) => `${index * 8} 8 linear ${path} ${index * 8}`);
    const server = await serve(["-t", lines.join("\n")]);
    expect(await firstByte(server.uri)).toBe(0);
  });

  it("serves one client on stdin and stdout", async () => {
    const child = spawn(process.execPath, [main, "serve", "--single", image(tempFolder())], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const ended = new Promise((resolve) => child.on("exit", resolve));
    const greeting = await new Promise<Buffer>((resolve) => child.stdout.once("data", resolve));
    expect(greeting.toString("latin1", 0, 8)).toBe("NBDMAGIC");
    child.stdin.end();
    expect(await ended).toBe(0);
  });
});

describeWith(["nbdinfo"], "serve --run", () => {
  it("gives the command a URI and its status back", async () => {
    const path = image(tempFolder());
    const good = await dmkit(["serve", path, "--run", 'nbdinfo --size "$uri"']);
    expect(good).toMatchObject({ code: 0, stdout: `${2 ** 20}\n` });
    expect((await dmkit(["serve", path, "--run", "exit 7"])).code).toBe(7);
    expect((await dmkit(["serve", path, "--run", 'test -S "$unixsocket" && test -z "$port"'])).code).toBe(0);
    expect((await dmkit(["serve", path, "--run", "kill -9 $$"])).code).toBe(137);
    // Whoever exports nothing yet has a socket all the same.
    const stack = join(tempFolder(), "s.yaml");
    writeFileSync(stack, "devices: {}");
    expect((await dmkit(["serve", stack, "--run", 'test -S "$unixsocket" && exit 5'])).code).toBe(5);
    const tcp = await dmkit(["serve", path, "-p", "0", "--run", 'nbdinfo --size "nbd://127.0.0.1:$port"']);
    expect(tcp).toMatchObject({ code: 0, stdout: `${2 ** 20}\n` });
  });
});

describe("mistakes", () => {
  /** One line that says what is wrong (and one what to do), the exit code, and nothing printed on stdout. */
  async function refused(args: readonly string[], says: RegExp, code = 1): Promise<void> {
    const result = await cli(...args);
    expect(result.stderr).toMatch(says);
    expect(result.stderr.trimEnd().split("\n").length).toBeLessThanOrEqual(2);
    expect(result.stderr).not.toMatch(/at .*\.js:\d+/);
    expect(result.stdout).toBe("");
    expect(result.code).toBe(code);
  }

  it("no such file", async () => {
    const path = join(tempFolder(), "missing.img");
    await refused(["serve", path], /missing\.img: open: no such file \(ENOENT\)/);
    expect(existsSync(path)).toBe(false);
  });

  it("a size that is no whole number of sectors", async () => {
    const path = image(tempFolder(), "odd.img", 1000);
    await refused(["serve", path], /size 1000 is not a multiple of 512/);
    expect(statSync(path).size).toBe(1000);
  });

  it("a directory", async () => {
    await refused(["serve", tempFolder()], /a directory cannot be used as a block device \(EINVAL\)/);
  });

  it("a file where the folder of the default disk should be", async () => {
    await refused(["serve", "--data", image(tempFolder())], /is no folder \(EEXIST\)\n {2}Give a folder/);
  });

  it("a folder that cannot be made, where a system says that the one above is not there", async () => {
    await refused(["serve", "--data", "/proc/dmkit-test"], /ENOENT\)\n {2}Give a folder/);
  });

  it("an image without a name", async () => {
    await refused(["serve", ""], /argument 'image' cannot be empty/, 2);
  });

  it("tables with an unknown target, overlaps and gaps", async () => {
    await refused(["serve", "-t", "0 8 nonsense"], /line 1: there is no target "nonsense"/, 2);
    await refused(["serve", "-t", "0 8 zero", "-t", "4 8 zero"], /line 2: .*overlaps/, 2);
    await refused(["serve", "-t", "0 8 zero", "-t", "16 8 zero"], /line 2: .*gap/, 2);
    await refused(["serve", "-t", "0 4096 linear mem:1M 0"], /do not fit/);
  });

  it("a port in use, a socket in use", async () => {
    const folder = tempFolder();
    const tcp = await serve(["-p", "0", "mem:1M"]);
    await refused(["serve", "-p", new URL(tcp.uri).port, "mem:1M"], /EADDRINUSE/);
    const unix = await serve(["-U", join(folder, "s"), "mem:1M"]);
    await refused(["serve", "-U", join(folder, "s"), "mem:1M"], /EADDRINUSE/);
    expect(await firstByte(unix.uri)).toBe(0);
  });

  it("two servers on one file", async () => {
    const folder = tempFolder();
    const path = image(folder);
    const first = await serve([path]);
    const before = statSync(path).mtimeMs;
    await refused(["serve", path, "-U", join(folder, "t")], /in use by another process \(EBUSY\)/);
    await refused(["serve", "-r", path, "-U", join(folder, "t")], /EBUSY/);
    expect(statSync(path).mtimeMs).toBe(before);
    expect(await firstByte(first.uri)).toBe(0);
  });

  it("an address others can reach", async () => {
    await refused(["serve", "mem:1M", "-p", "0", "-i", "0.0.0.0"], /EPERM/);
  });

  it("a file that is no socket where the socket should be", async () => {
    const folder = tempFolder();
    const path = image(folder, "precious");
    await refused(["serve", "mem:1M", "-U", path], /EEXIST/);
    expect(statSync(path).size).toBe(2 ** 20);
  });

  it("usage errors have exit code 2", async () => {
    expect((await dmkit(["serve", "--port", "99999"])).code).toBe(2);
    expect((await cli("nonsense")).code).toBe(2);
    expect((await cli("copy", "a")).code).toBe(2);
    expect((await cli("serve", "--create", "12x", "y")).code).toBe(2);
  });

  it("images and a table at once, one name for two images", async () => {
    await refused(["serve", "mem:1M", "-t", "0 8 zero"], /images or a table/, 2);
    await refused(["serve", "-n", "x", "mem:1M", "mem:2M"], /one image only/, 2);
    await refused(["serve", "a/x", "b/x"], /two images/, 2);
  });
});

describe("an orderly end", () => {
  it("answers requests in flight before it goes", async () => {
    const control = join(tempFolder(), "c");
    // Long enough to be seen in flight, and clients have half of the time that the end has.
    const slow = ["-t", "0 2048 delay mem:1M 0 5000", "--shutdown-timeout", "120"];
    const server = await serve(["-C", control, ...slow]);
    const device = await openNbd(server.uri, { environment: realEnvironment, reconnect: 0 });
    const into = Buffer.alloc(512, 1);
    const reading = device.read(0, into);
    await untilInFlight(control);
    const stopped = server.stop();
    await reading;
    expect(into[0]).toBe(0);
    expect(await stopped).toBe(0);
    await device.close().catch(() => {});
  });

  it("is cut short by a second signal", async () => {
    const [socket, control] = [join(tempFolder(), "s"), join(tempFolder(), "c")];
    const server = await serve(["-U", socket, "-C", control, "-t", "0 2048 delay mem:1M 0 60000"]);
    const device = await openNbd(server.uri, { environment: realEnvironment, reconnect: 0 });
    const reading = device.read(0, Buffer.alloc(512)).catch((error: unknown) => error);
    await untilInFlight(control);
    server.process.kill("SIGTERM");
    // It has begun to end, and waits for what is in flight.
    await until(() => !existsSync(socket), "the end of its socket");
    expect(server.process.exitCode).toBeNull();
    expect(await server.stop("SIGINT")).toBe(130);
    expect(await reading).toMatchObject({ name: "BlockIoError" });
    await device.close().catch(() => {});
  });

  it("drops clients that do not go within the time limit", async () => {
    const control = join(tempFolder(), "c");
    const slow = ["-t", "0 2048 delay mem:1M 0 60000", "--shutdown-timeout", "1"];
    const server = await serve(["-C", control, ...slow]);
    const device = await openNbd(server.uri, { environment: realEnvironment, reconnect: 0 });
    const reading = device.read(0, Buffer.alloc(512)).catch((error: unknown) => error);
    await untilInFlight(control);
    const stopped = server.stop();
    expect(await reading).toMatchObject({ name: "BlockIoError" });
    // The device cannot be closed in order either: that is an error, and said.
    expect(await stopped).toBe(1);
    expect(server.stderr()).toMatch(/did not close within 1 s.*ETIMEDOUT/);
    await device.close().catch(() => {});
  });

  it("kill -9 of a client in the middle of a WRITE leaves the old bytes", async () => {
    const folder = tempFolder();
    const path = image(folder);
    const server = await serve([path]);
    const script = `
      const { openNbd } = await import("@dmkit/nbd");
      const { realEnvironment } = await import("@dmkit/block-io");
      const device = await openNbd(process.argv[1], { environment: realEnvironment });
      await device.write(0, Buffer.alloc(65536, 1), { fua: true });
      await device.close();
      const net = await import("node:net");
      // By hand, so that the payload can stop half way.
      const socket = net.connect(new URL(process.argv[1]).searchParams.get("socket"));
      const u32 = (n) => { const b = Buffer.alloc(4); b.writeUInt32BE(n); return b; };
      socket.on("data", () => {});
      socket.write(Buffer.concat([u32(3), Buffer.from("IHAVEOPT"), u32(1), u32(0)]));
      const request = Buffer.alloc(28);
      request.writeUInt32BE(0x25609513, 0);
      request.writeUInt16BE(1, 6);
      request.writeUInt32BE(65536, 24);
      socket.write(Buffer.concat([request, Buffer.alloc(40000, 2)]), () => process.stdout.write("half\\n"));
      setInterval(() => {}, 1000);`;
    const client = spawn(
      process.execPath,
      ["--conditions=none", "--input-type=module", "-e", script, server.uri],
      {
        cwd: join(import.meta.dirname, ".."),
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    await new Promise((resolve) => client.stdout.once("data", resolve));
    await new Promise((resolve) => setTimeout(resolve, 100));
    client.kill("SIGKILL");
    expect(await server.stop()).toBe(0);
    expect(readFileSync(path).subarray(0, 65_536).equals(Buffer.alloc(65_536, 1))).toBe(true);
  });
});

describe("copy and info", () => {
  it("copies a file through a server and back, sparse", async () => {
    const folder = tempFolder();
    const source = image(folder, "source", 8 * 2 ** 20);
    const bytes = Buffer.alloc(300_000, 0x5a);
    writeFileSync(source, bytes, { flag: "r+" });
    const server = await serve(["mem:16M"]);
    expect(await dmkit(["copy", "--json", source, server.uri])).toMatchObject({ code: 0 });
    const back = join(folder, "back");
    const { code, stdout } = await dmkit(["copy", "--json", server.uri, back]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ zeroed: 0 });
    expect(readFileSync(back).subarray(0, 300_000).equals(bytes)).toBe(true);
    expect(statSync(back).size).toBe(16 * 2 ** 20);
    expect(statSync(back).blocks * 512).toBeLessThan(2 * 2 ** 20);
  });

  it("overwrites old bytes by the source's holes, and refuses a destination that is too small", async () => {
    const folder = tempFolder();
    const source = image(folder, "source");
    const target = join(folder, "target");
    writeFileSync(target, Buffer.alloc(2 ** 20, 1));
    expect(await dmkit(["copy", "-q", source, target])).toMatchObject({ code: 0 });
    expect(readFileSync(target).equals(Buffer.alloc(2 ** 20))).toBe(true);
    const small = image(folder, "small", 4096);
    const refusal = await cli("copy", source, small);
    expect(refusal.code).toBe(1);
    expect(refusal.stderr).toMatch(/ENOSPC/);
    expect((await cli("copy", join(folder, "none"), join(folder, "new"))).code).toBe(1);
    expect(existsSync(join(folder, "new"))).toBe(false);
  });

  it("reports an error in the middle of a copy, and ends", async () => {
    const source = join(tempFolder(), "source");
    writeFileSync(source, Buffer.alloc(8 * 2 ** 20, 3));
    const server = await serve(["-t", "0 4096 linear mem:2M 0", "-t", "4096 28672 error"]);
    const { code, stderr } = await dmkit(["copy", "-q", source, server.uri]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/EIO/);
  });

  it("prints facts, maps and exports", async () => {
    const path = image(tempFolder());
    const info = await dmkit(["info", "--json", "--map", path]);
    expect(JSON.parse(info.stdout)).toMatchObject({
      size: 2 ** 20,
      logicalBlockSize: 512,
      extents: [{ offset: 0, length: 2 ** 20, kind: "hole" }],
    });
    const server = await serve(["-n", "one", "-D", "my disk", path]);
    const list = await cli("info", "--list", "--json", server.uri);
    expect(JSON.parse(list.stdout)).toMatchObject([{ name: "one", description: "my disk" }]);
    expect((await cli("info", server.uri)).stdout).toMatch(/1 MiB/);
    expect((await cli("targets")).stdout).toMatch(/striped/);
    expect((await cli("targets", "striped")).stdout).toMatch(/chunk .*1 … 4194304 sectors/);
  });
});

describe("help", () => {
  it.each([[], ["serve"], ["copy"], ["info"], ["targets"], ["bench"]])("of %s", async (...command) => {
    const { code, stdout } = await cli(...command, "--help");
    expect(code).toBe(0);
    expect(stdout).toMatch(/Usage: dmkit/);
    const headings = stdout.match(/^\S.*:$/gm) ?? [];
    // Everything has a group of its own where there is much.
    const groups: Readonly<Record<string, string[]>> = {
      "": ["Servers, and devices of a server that runs:", "Images that nobody serves:"],
      serve: ["What is served:", "Where to listen:", "How it runs:", "Who may connect:", "TLS:"],
    };
    expect(headings).toEqual(expect.arrayContaining(groups[command.join(" ")] ?? []));
  });

  it("lists all commands, as they themselves say it, whether they are loaded or not", async () => {
    // Two words are no list that was written down.
    const { stdout } = await dmkit(["--help", "--help"]);
    expect(stdout).toMatch(/\n {2}serve \[options\] \[image\.\.\.\] +serve images/);
    expect((await dmkit(["--help"])).stdout).toBe(stdout);
    expect(await dmkit([])).toMatchObject({ code: 2, stderr: stdout });
  });

  it("on what is not there is an error, and so is a target that is not", async () => {
    for (const [args, text] of [
      [["help", "serv"], 'there is no command "serv"'],
      [["serve", "-t", "0 8 nonsense"], 'there is no target "nonsense"'],
    ] as const)
      expect(await dmkit(args)).toMatchObject({ code: 2, stderr: expect.stringContaining(text) });
    expect((await cli("help", "serve")).stdout).toContain("Usage: dmkit serve");
  });

  it("prints the version", async () => {
    const { version } = JSON.parse(readFileSync(join(import.meta.dirname, "../package.json"), "utf8")) as {
      version: string;
    };
    expect((await run(process.execPath, [main, "--version"])).stdout).toBe(`${version}\n`);
  });
});

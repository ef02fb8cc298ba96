/** What is asked at the edges: early signals, limits, numbers that are names, and servers beside each other. */
import { execFileSync } from "node:child_process";
import { closeSync, existsSync, openSync, writeFileSync } from "node:fs";
import { type Server, connect, createServer } from "node:net";
import { join } from "node:path";
import { parseTable, realEnvironment, silentLogger } from "@dmkit/block-io";
import { parseImageReference } from "@dmkit/image";
import { MOST_CONNECTIONS, NbdServer } from "@dmkit/nbd";
import { describe, expect, it, vi } from "vitest";
import { runCommandLine } from "../src/command-line.ts";
import { diffStack } from "../src/commands/own/cow/verbs.ts";
import { ControlClient } from "../src/control/client.ts";
import { LONGEST_REQUEST } from "../src/control/protocol.ts";
import { CONTROL_VARIABLE, runtimeFolder } from "../src/control/sockets.ts";
import { openReference } from "../src/devices.ts";
import { startMetrics } from "../src/metrics/server.ts";
import { startControl } from "../src/serve/control.ts";
import { StopSignal } from "../src/serve/signals.ts";
import { connectionsOf } from "../src/stack-file/plan.ts";
import { parseStack } from "../src/stack-file/read/read.ts";
import { targets } from "../src/targets.ts";
import { startProgress } from "../src/ui/progress.ts";
import { cli } from "./cli.ts";
import { cleanUp, dmkit, run, main, tempFolder } from "./support.ts";

const environment = { ...realEnvironment, logger: silentLogger };

function plan(text: string): NonNullable<ReturnType<typeof parseStack>["plan"]> {
  const { plan: read, problems } = parseStack({ text, file: "/stacks/s.yaml" });
  if (read === undefined) throw new Error(JSON.stringify(problems));
  return read;
}

const problemsOf = (text: string): readonly string[] =>
  (parseStack({ text, file: "/stacks/s.yaml" }).problems ?? []).map(({ what }) => what);

function setEnvironment(name: string, value: string): void {
  const before = process.env[name];
  process.env[name] = value;
  cleanUp(() => {
    if (before === undefined) delete process.env[name];
    else process.env[name] = before;
  });
}

describe("signals", () => {
  it("that come while the program is loaded neither end a server nor open a debugger", async () => {
    const kill = `process.on("newListener", (name) => {
      if (name !== "SIGHUP" && name !== "SIGUSR1") return;
      setImmediate(() => { console.log(name); process.kill(process.pid, name); });
    })`;
    const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(kill)}`;
    const env = { ...process.env, NODE_OPTIONS };
    // It ends before it would listen to signals of its own.
    const { code, stdout, stderr } = await dmkit(["serve", join(tempFolder(), "s.yaml")], { env });
    expect(code).toBe(1);
    expect(stdout.split("\n").toSorted()).toEqual(["", "SIGHUP", "SIGUSR1"]);
    expect(stderr).toMatch(/^dmkit: .*no such file[^]*\(ENOENT\)/);
    expect(stderr).not.toMatch(/Debugger/);
  });

  it("read the file again once it is settled that they do", () => {
    const stop = new StopSignal();
    cleanUp(() => stop.dispose());
    process.emit("SIGHUP", "SIGHUP");
    let hangups = 0;
    stop.onHangup = () => (hangups += 1);
    expect(hangups).toBe(0);
    stop.ready();
    expect(hangups).toBe(1);
    process.emit("SIGHUP", "SIGHUP");
    expect(hangups).toBe(2);
  });

  it("end cow diff --export without leaving a part", async () => {
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    writeFileSync(at("base.img"), Buffer.alloc(2 ** 20));
    const create = ["cow", "create", at("new.bitmap"), at("new.data"), "--base", at("base.img")];
    expect(await runCommandLine(create)).toBe(0);
    const going = diffStack({ from: 1, to: 1 }, [at("base.img"), at("new.bitmap"), at("new.data")], {
      export: at("out.img"),
      force: false,
    });
    // As soon as anybody listens.
    while (!process.emit("SIGHUP", "SIGHUP")) await new Promise((resolve) => setImmediate(resolve));
    expect(await going).toBe(130);
    expect([existsSync(at("out.img")), existsSync(at("out.img.dmkit-part"))]).toEqual([false, false]);
  });
});

describe("clients at a time", () => {
  it("are as many as there can be, and as all exports of a stack file say", () => {
    expect(() => new NbdServer({ limits: { connections: MOST_CONNECTIONS } })).not.toThrow();
    const more = (): NbdServer => new NbdServer({ limits: { connections: MOST_CONNECTIONS + 1 } });
    expect(more).toThrow(expect.objectContaining({ code: "EINVAL", hint: expect.any(String) }));
    const exports = (most: number): string =>
      `devices: { a: mem:1M }\nexports: { a: { max-connections: ${most} }, b: { device: a, max-connections: 1 } }`;
    expect(connectionsOf(plan(exports(5)))).toBe(100);
    expect(connectionsOf(plan(exports(150)))).toBe(151);
    expect(connectionsOf(plan(exports(MOST_CONNECTIONS)))).toBe(MOST_CONNECTIONS);
    expect(problemsOf(exports(MOST_CONNECTIONS + 1))).toHaveLength(1);
  });

  it("that say nothing to the metrics do not keep others out for long", async () => {
    const listener = await startMetrics({ host: "127.0.0.1", port: 0 }, () => expect.unreachable(), {
      requestTime: 20,
    });
    cleanUp(() => listener.close());
    const silent = connect({ host: "127.0.0.1", port: listener.port });
    silent.resume();
    await new Promise((resolve) => silent.on("close", resolve));
  });
});

describe("stack files", () => {
  it("take numbers for names and paths as they are written", () => {
    const { exports, control } = plan(
      "devices: { 007: mem:1M, 1.0: mem:1M }\nexports: { 007: null, a: 007, b: { device: 1.0 } }\ncontrol: 4711",
    );
    expect(exports.map(({ device }) => device)).toEqual(["007", "007", "1.0"]);
    expect(plan("devices: { 007: mem:1M }\nexports: [007]").exports).toMatchObject([{ name: "007" }]);
    expect(control).toBe("/stacks/4711");
  });

  it("name sockets as long as can be listened on", async () => {
    const path = (length: number): string => `/stacks/${"s".repeat(length - "/stacks/".length)}`;
    expect(problemsOf(`listen: { unix: ${path(102)} }`)).toEqual([]);
    expect(problemsOf(`listen: { unix: ${path(103)} }`)).toHaveLength(1);
  });

  it("preallocate what they make, and may name no files", () => {
    expect(problemsOf("devices: { a: { file: f, preallocate: true } }")).toHaveLength(1);
    expect(problemsOf("devices: { a: { file: f, preallocate: true, create: 1M } }\nfiles:\n")).toEqual([]);
  });

  it("make nothing for what is only read", () => {
    const cache =
      "{ target: writeboost, backing: { file: b, create: 2M }, cache: c, read-only: true, size: 1M }";
    expect(problemsOf("devices: { a: { file: f, create: 1M, read-only: true } }")).toHaveLength(1);
    expect(problemsOf(`devices: { a: ${cache} }`)).toHaveLength(1);
    const other = "{ file: f, create: 1M }";
    expect(problemsOf(`devices: { w: ${other}, r: { file: f, read-only: true } }`)).toEqual([]);
  });

  it("have no list of clients that is empty, and no writers of what nobody writes", () => {
    const of = (words: string): string => `devices: { a: mem:1M }\nexports: { a: { ${words} } }`;
    for (const key of ["allow", "identities", "writers"])
      expect(problemsOf(of(`${key}: []`))).toHaveLength(1);
    expect(problemsOf("devices: { a: mem:1M }\nlisten: { port: 1, allow: [] }")).toHaveLength(1);
    expect(problemsOf(of("writers: [x], read-only: true"))).toHaveLength(1);
    expect(problemsOf(of("writers: [x], read-only: false"))).toEqual([]);
  });

  it("are of this machine alone where the address is", () => {
    const at = (host: string): string => `devices: { a: mem:1M }\nlisten: { host: "${host}", port: 1 }`;
    expect(plan(at("[::1]")).listen).toMatchObject([{ host: "::1" }]);
    expect(problemsOf(at("127.0.0.999"))).toHaveLength(1);
  });
});

const control = (path?: string): ReturnType<typeof startControl> =>
  startControl({} as never, { path, wanted: true, version: "", environment });

describe("control sockets", () => {
  it("of a server that another one runs are its own", async () => {
    const folder = tempFolder();
    setEnvironment("XDG_RUNTIME_DIR", folder);
    const outer = await control(join(folder, "outer.sock"));
    cleanUp(() => outer?.close());
    setEnvironment(CONTROL_VARIABLE, outer?.path ?? "");
    const inner = await control();
    cleanUp(() => inner?.close());
    expect(inner?.path).toBe(join(folder, "dmkit", `${process.pid}.sock`));
    await expect(control(outer?.path)).rejects.toMatchObject({ code: "EADDRINUSE" });
  });

  it("are not in a folder that means another one elsewhere", () => {
    setEnvironment("XDG_RUNTIME_DIR", "run");
    expect(runtimeFolder()).toMatch(/^\//);
  });

  it("of servers that do not answer are not waited for, and none is asked too much", async () => {
    const path = join(tempFolder(), "c.sock");
    const lines: string[] = [];
    const server: Server = createServer((socket) => socket.on("data", (chunk) => lines.push(String(chunk))));
    await new Promise<void>((resolve) => server.listen(path, resolve));
    cleanUp(() => void server.close());
    const silent = { code: "ETIMEDOUT", hint: expect.stringContaining("kill -CONT") };
    await expect(ControlClient.connect(path, 10)).rejects.toMatchObject(silent);
    const stopped = createServer((socket) => {
      socket.once("data", () => socket.write('{"jsonrpc":"2.0","id":0,"result":{}}\n'));
    });
    await new Promise<void>((resolve) => stopped.listen(`${path}1`, resolve));
    cleanUp(() => void stopped.close());
    // Its hello is answered in time, also on a busy machine.
    const greeted = await ControlClient.connect(`${path}1`, 2000);
    cleanUp(() => greeted.close());
    await expect(greeted.call("statistics", {})).rejects.toMatchObject(silent);
    const gone = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => gone.listen(`${path}0`, resolve));
    cleanUp(() => void gone.close());
    await expect(ControlClient.connect(`${path}0`)).rejects.toMatchObject({
      code: "ENOTCONN",
      hint: expect.stringContaining("ulimit -n"),
    });
    const real = await startControl({} as never, {
      path: `${path}2`,
      wanted: true,
      version: "",
      environment,
    });
    cleanUp(() => real?.close());
    const client = await ControlClient.connect(`${path}2`);
    cleanUp(() => client.close());
    const params = { name: "a", table: "#".repeat(LONGEST_REQUEST) };
    await expect(client.call("create", params)).rejects.toMatchObject({ code: "EOVERFLOW" });
    const create = `head -c ${2 * LONGEST_REQUEST} /dev/zero | "$0" "$1" create x -C "$2"`;
    const typed = await run("/bin/sh", ["-c", create, process.execPath, main, `${path}2`]);
    expect(typed).toMatchObject({ code: 1, stderr: expect.stringContaining("(EOVERFLOW)") });
  });
});

describe("commands", () => {
  it("print no progress of what is over at once", () => {
    const write = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    cleanUp(() => write.mockRestore());
    const progress = startProgress("copy", 100, false);
    progress.update(50);
    progress.update(100);
    progress.stop();
    expect(write).not.toHaveBeenCalled();
  });

  it("print what else is to be known of what takes long", () => {
    const write = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    const now = vi.spyOn(Date, "now").mockReturnValue(0);
    cleanUp(() => {
      write.mockRestore();
      now.mockRestore();
    });
    const progress = startProgress("publish", 1000, false);
    now.mockReturnValue(10_000);
    progress.update(500, "100 bytes were there, 7 bytes uploaded");
    expect(write).toHaveBeenCalledWith(
      "publish: 50 % (500 bytes of 1000 bytes, 50 bytes/s, 100 bytes were there, 7 bytes uploaded)\n",
    );
  });

  it("know targets by all their names", async () => {
    const write = vi.spyOn(process.stdout, "write").mockReturnValue(true);
    cleanUp(() => write.mockRestore());
    for (const name of ["assoc-cache", "compress"]) expect(await runCommandLine(["targets", name])).toBe(0);
  });

  it("take no option of a table twice", () => {
    const table = "0 8 cache a b 0 8 8 8 0 4 policy cleaner policy write-back";
    expect(() => parseTable(table, targets)).toThrow(expect.objectContaining({ code: "EPARSE" }));
    expect(() => parseTable(table, targets)).toThrow(/policy is given twice/);
  });

  it("take a ? in a folder's name for what it is", () => {
    expect(parseImageReference("./q?1/img")).toMatchObject({ store: "./q?1", name: "img" });
    expect(parseImageReference("s3://b/img?region=x")).toMatchObject({
      store: "s3://b?region=x",
      name: "img",
    });
  });

  it("are not given names that Node cannot tell, and say so", async () => {
    const folder = tempFolder();
    const shell = (script: string): ReturnType<typeof run> =>
      run("/bin/sh", ["-c", script, process.execPath, main], { cwd: folder });
    const foreign = { stderr: expect.stringMatching(/no UTF-8.*\(EPARSE\)\n.*ln -s/) };
    expect(await shell('"$0" "$1" info "$(printf "\\377").img"')).toMatchObject({ code: 2, ...foreign });
    expect(await shell('d=$(printf "\\377"); mkdir "$d"; cd "$d"; "$0" "$1" ls')).toMatchObject(foreign);
    const table = 'printf "0 8 linear \\377 0\\n" | "$0" "$1" create x';
    const server = await control(join(folder, "c.sock"));
    cleanUp(() => server?.close());
    expect(await shell(`${table} -C "${server?.path}"`)).toMatchObject({ code: 2, ...foreign });
    // One that has the very character is called by it.
    expect(await shell('"$0" "$1" info "\u{fffd}.img"')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("(ENOENT)"),
    });
  });

  it("copy to nothing that can only be read", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "a.img"), Buffer.alloc(8192));
    expect(await cli("publish", "-q", join(folder, "a.img"), join(folder, "store", "a"))).toMatchObject({
      code: 0,
    });
    expect(await cli("copy", "mem:8K", `image:${folder}/store/a`)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/can only be read \(EROFS\)\n.*dmkit publish/),
    });
  });

  it("name the file that is no undo file, and take no file for two", async () => {
    const folder = tempFolder();
    const path = join(folder, "u");
    writeFileSync(path, "no undo file");
    const words = ["cow", "create", join(folder, "m"), join(folder, ".", "m"), "--size", "1M"];
    expect(await cli("undo", path)).toMatchObject({ code: 1, stderr: expect.stringContaining(path) });
    expect(await cli(...words)).toMatchObject({ code: 1, stderr: expect.stringMatching(/EINVAL/) });
    expect(existsSync(join(folder, "m"))).toBe(false);
  });

  it("say what to hand over where a descriptor is no listening socket", async () => {
    const fd = openSync(join(tempFolder(), "file"), "w");
    cleanUp(() => closeSync(fd));
    await expect(new NbdServer().listen({ fd })).rejects.toMatchObject({
      hint: expect.stringMatching(/\.socket/),
    });
  });

  it("refuse vsock, and a dump that nobody may ever write", async () => {
    await expect(openReference("nbd+vsock://1/", "read", environment)).rejects.toMatchObject({
      code: "ENOTSUP",
    });
    const fifo = join(tempFolder(), "fifo");
    execFileSync("mkfifo", [fifo]);
    const { readDump } = await import("../src/offline/dump.ts");
    await expect(readDump(fifo, [])).rejects.toMatchObject({ code: "EINVAL", hint: expect.any(String) });
  });
});

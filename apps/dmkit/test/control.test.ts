/** The verbs as a user types them, against servers of their own; and what hostile control clients get. */
import { type Socket, connect } from "node:net";
import { existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { realEnvironment } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { ControlClient } from "../src/control/client.ts";
import { cli, cliIn } from "./cli.ts";
import {
  type Result,
  type Server,
  cleanUp,
  complaints,
  dmkit,
  run,
  serve,
  tempFolder,
  until,
  untilInFlight,
} from "./support.ts";

const MIB = 2 ** 20;

function file(path: string, size = MIB): string {
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

interface Controlled {
  readonly folder: string;
  readonly server: Server;
  readonly socket: string;
  readonly control: string;
  /** Runs a verb against the server. */
  readonly verb: (...args: string[]) => Promise<Result>;
  /** The same, and demands success: its standard output. */
  readonly ok: (...args: string[]) => Promise<string>;
  /** The same, and demands exit code 1 and an error of this code: the error's text. */
  readonly refused: (code: string, ...args: string[]) => Promise<string>;
  readonly uri: (name?: string) => string;
}

async function controlled(
  args: (folder: string) => readonly string[],
  folder: string = tempFolder(),
): Promise<Controlled> {
  const [socket, control] = [join(folder, "nbd.sock"), join(folder, "control.sock")];
  const server = await serve(["-U", socket, "-C", control, ...args(folder)]);
  const verb = (...words: string[]): Promise<Result> =>
    cliIn({ cwd: folder, env: { ...process.env, DMKIT_CONTROL: control } }, ...words);
  return {
    folder,
    server,
    socket,
    control,
    verb,
    async ok(...words) {
      const { code, stdout, stderr } = await verb(...words);
      expect(complaints(stderr)).toBe("");
      expect(code).toBe(0);
      return stdout;
    },
    async refused(errorCode, ...words) {
      const { code, stdout, stderr } = await verb(...words);
      expect([code, stdout]).toEqual([errorCode === "EPARSE" ? 2 : 1, ""]);
      expect(stderr).toContain(`(${errorCode})`);
      expect(stderr.trimEnd().split("\n").length).toBeLessThanOrEqual(2);
      return stderr;
    },
    uri: (name = "") => `nbd+unix:///${name}?socket=${socket}`,
  };
}

async function readByte(uri: string, offset = 0): Promise<number | undefined> {
  const device = await openNbd(uri, { environment: realEnvironment, reconnect: 0 });
  const into = Buffer.alloc(512);
  await device.read(offset, into);
  await device.close();
  return into[0];
}

describe("verbs", () => {
  it("list, show, create, stack, rename and remove devices of a served image", async () => {
    const { folder, ok, refused, uri, control } = await controlled((at) => [file(join(at, "a.img"))]);
    expect(statSync(control).mode & 0o777).toBe(0o600);
    expect(await ok("ls")).toBe("default  1 MiB  linear\n");
    expect(await ok("table", "default")).toBe(`0 2048 linear ${join(folder, "a.img")} 0\n`);
    expect(await ok("status")).toBe("default: 0 2048 linear\n");
    file(join(folder, "b.img"));
    // A relative path is where the caller is, not where the server was started.
    await ok("create", "b", "--table", "0 1024 linear b.img 0", "--table", "1024 1024 linear b.img 1024");
    expect(await ok("table", "b")).toBe(
      `0 1024 linear ${join(folder, "b.img")} 0\n1024 1024 linear ${join(folder, "b.img")} 1024\n`,
    );
    await ok("create", "top", "-t", "0 8 linear dm:b 8");
    expect(await ok("ls", "--tree")).toBe(
      `default (1 MiB, linear, exported as "")\n└─${join(folder, "a.img")}\ntop (4 KiB, linear)\n└─b (1 MiB, linear)\n  └─${join(folder, "b.img")}\n`,
    );
    expect(await refused("EBUSY", "remove", "b")).toMatch(/device top/);
    await ok("rename", "b", "below");
    expect(await ok("table", "top")).toBe("0 8 linear dm:below 8\n");
    await ok("export", "add", "t", "top", "--description", "four KiB");
    expect(await readByte(uri("t"))).toBe(0);
    expect(await refused("EBUSY", "remove", "top")).toMatch(/export "t"/);
    await ok("remove", "--force", "top");
    await ok("remove", "below");
    expect(JSON.parse(await ok("ls", "--json"))).toMatchObject([{ name: "default", state: "live" }]);
    await refused("ENOENT", "status", "below");
    await refused("EEXIST", "create", "default", "-t", "0 8 zero");
    await refused("EPARSE", "create", "x", "-t", "0 8 nonsense 1");
  });

  it("read a table from standard input, and take nothing as no table", async () => {
    const { folder, ok, control } = await controlled(() => ["mem:1M"]);
    const shell = `printf '# two lines\\n0 8 zero\\n8 8 error\\n' | "$0" "$1" create z -C "$2"`;
    const { main } = await import("./support.ts");
    const made = await run("/bin/sh", ["-c", shell, process.execPath, main, control], { cwd: folder });
    expect(made).toMatchObject({ code: 0, stderr: "" });
    expect(await ok("status", "z")).toBe("0 8 zero\n8 8 error\n");
    expect(await dmkit(["create", "y", "-C", control])).toMatchObject({ code: 2 });
  });

  it("suspend, exchange a table and resume with a client in the middle", async () => {
    const { folder, ok, refused, uri, verb } = await controlled((at) => [file(join(at, "a.img"))]);
    file(join(folder, "b.img"), 2 * MIB);
    const device = await openNbd(uri(), { environment: realEnvironment, reconnect: 0 });
    await device.write(0, Buffer.alloc(4096, 1));
    await ok("suspend", "default");
    expect(await ok("ls")).toMatch(/SUSPENDED/);
    let answered = false;
    const writing = device.write(4096, Buffer.alloc(4096, 2)).then(() => (answered = true));
    expect((await verb("status", "default")).stderr).toBe("default is suspended\n");
    expect(answered).toBe(false);
    expect(readFileSync(join(folder, "a.img"))[0]).toBe(1);
    await ok("reload", "default", "-t", "0 4096 linear b.img 0");
    expect(await ok("table", "--inactive", "default")).toContain("b.img");
    await ok("resume", "default");
    await writing;
    await device.flush();
    expect(readFileSync(join(folder, "b.img"))[4096]).toBe(2);
    expect(device.size).toBe(MIB);
    await refused("EBUSY", "reload", "default", "-t", "0 8 zero");
    await ok("reload", "default", "-t", "0 4096 linear none.img 0");
    expect(await refused("ENOENT", "resume", "default")).toMatch(/old table is in place again/);
    const into = Buffer.alloc(4096);
    await device.read(4096, into);
    expect(into[0]).toBe(2);
    await device.close();
    const larger = await openNbd(uri(), { environment: realEnvironment, reconnect: 0 });
    expect(larger.size).toBe(2 * MIB);
    await larger.close();
  });

  it("end a suspended server in order, with requests waiting", async () => {
    const { server, ok, uri, control } = await controlled((at) => [file(join(at, "a.img"))]);
    const device = await openNbd(uri(), { environment: realEnvironment, reconnect: 0 });
    await ok("suspend", "default");
    const writing = device.write(0, Buffer.alloc(512, 1));
    await untilInFlight(control);
    const stopped = server.stop();
    await writing;
    expect(await stopped).toBe(0);
    await device.close().catch(() => {});
  });

  it("give status fields by name, change tunables, and tables tell", async () => {
    const { ok, refused } = await controlled((at) => [
      "-t",
      `0 8192 writeboost 0 ${file(join(at, "b.img"), 4 * MIB)} ${file(join(at, "c.img"), 8 * MIB)}`,
    ]);
    await ok("message", "default", "writeback_threshold", "33");
    const [status] = JSON.parse(await ok("status", "--json", "default")) as [
      { segments: [{ target: string; fields: Record<string, number> }] },
    ];
    expect(status.segments[0].fields).toMatchObject({ writeback_threshold: 33, dirty_blocks: 0 });
    expect(await ok("table", "default")).toMatch(/ writeback_threshold 33\n$/);
    await refused("EINVAL", "message", "default", "writeback_threshold", "333");
    await refused("EINVAL", "message", "default", "nonsense");
  });

  it("need a server, and say so", async () => {
    const folder = tempFolder();
    const env = { ...process.env, XDG_RUNTIME_DIR: folder, DMKIT_CONTROL: "" };
    const none = await cliIn({ env }, "ls");
    expect(none).toMatchObject({ code: 1, stdout: "" });
    expect(none.stderr).toMatch(/no dmkit server is running.*ENOENT/);
    expect((await cli("ls", "-C", join(folder, "none"))).stderr).toMatch(/no dmkit server answers/);
    const first = await serve(["mem:1M"], { env });
    expect(await cliIn({ env }, "ls")).toMatchObject({ code: 0 });
    const second = await serve(["mem:2M"], { env });
    const several = await cliIn({ env }, "ls");
    expect(several.code).toBe(1);
    expect(several.stderr).toMatch(/2 dmkit servers are running.*EBUSY/);
    const chosen = await cliIn({ env }, "ls", "-C", String(second.process.pid));
    expect(chosen.stdout).toMatch(/2 MiB/);
    await first.stop("SIGKILL");
    expect((await cliIn({ env }, "ls")).stdout).toMatch(/2 MiB/);
  });

  it("have help with examples, and usage errors", async () => {
    for (const words of [
      ["create"],
      ["remove"],
      ["ls"],
      ["table"],
      ["status"],
      ["message"],
      ["suspend"],
      ["resume"],
      ["reload"],
      ["rename"],
      ["export", "add"],
      ["export", "rm"],
      ["export", "ls"],
    ]) {
      const help = await cli(...words, "--help");
      expect(help.code).toBe(0);
      expect(help.stdout).toMatch(/Examples:\n {2}dmkit /);
    }
    expect((await cli("create")).code).toBe(2);
    expect((await cli("export", "rm", "x", "--mode", "gently")).code).toBe(2);
    expect((await cli("export", "nonsense")).code).toBe(2);
  });
});

describe("exports at run time", () => {
  it("are added, limited, listed and withdrawn", async () => {
    const { ok, refused, uri } = await controlled((at) => [file(join(at, "a.img"))]);
    await refused("ENOENT", "export", "add", "x", "nothing");
    await ok("export", "add", "x", "default", "--read-only", "--max-connections", "1");
    await refused("EEXIST", "export", "add", "x", "default");
    const device = await openNbd(uri("x"), {
      environment: realEnvironment,
      readOnly: true,
      reconnect: 0,
    });
    await device.read(0, Buffer.alloc(4096));
    await expect(openNbd(uri("x"), { environment: realEnvironment, readOnly: true })).rejects.toThrow(
      /connections already/,
    );
    expect(await ok("export", "ls")).toMatch(/^x +default +1 MiB +1 of 1 +4 KiB +0 bytes +read-only$/m);
    expect(await refused("EBUSY", "export", "rm", "x")).toMatch(/--mode hide/);
    expect(await ok("export", "rm", "x", "--mode", "hide")).toMatch(/1 of its clients/);
    await expect(openNbd(uri("x"), { environment: realEnvironment, readOnly: true })).rejects.toMatchObject({
      code: "ENOENT",
    });
    await device.read(0, Buffer.alloc(4096));
    expect(await ok("export", "ls")).toMatch(/leaving/);
    // The name is free for a new one while the last client of the old one stays.
    await ok("export", "add", "x", "default");
    await ok("export", "rm", "x");
    // Who was let stay is sent away later.
    expect(await ok("export", "rm", "x", "--mode", "hide")).toMatch(/1 of its clients/);
    await ok("export", "rm", "x", "--mode", "hard");
    expect(await ok("export", "ls")).not.toMatch(/leaving/);
    await device.close();
    await ok("export", "rm", "");
    await ok("remove", "default");
  });

  it("disconnect clients in mode hard, refuse them in mode soft", async () => {
    const { ok, uri } = await controlled(() => ["mem:1M"]);
    await ok("export", "add", "hard", "default");
    await ok("export", "add", "soft", "default");
    const open = (name: string): ReturnType<typeof openNbd> =>
      openNbd(uri(name), { environment: realEnvironment, reconnect: 0 });
    const [hard, soft] = [await open("hard"), await open("soft")];
    expect(await ok("export", "rm", "hard", "--mode", "hard")).toBe("");
    await expect(hard.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "ENOTCONN" });
    await ok("export", "rm", "soft", "--mode", "soft");
    await expect(soft.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "ESHUTDOWN" });
    await hard.close().catch(() => {});
    await soft.close().catch(() => {});
  });
});

describe("long messages", () => {
  it("report progress, and Ctrl-C ends them at the server", async () => {
    // A disk that takes its time, so that writing back does.
    const { folder, ok, uri, server, control } = await controlled((at) => [
      "-t",
      `0 65536 writeboost 0 ${file(join(at, "b.img"), 32 * MIB)} ${file(join(at, "c.img"), 64 * MIB)} 2 segment_size_order 5`,
    ]);
    await ok("export", "rm", "");
    await ok("reload", "default", "-t", "0 65536 zero");
    await ok("resume", "default");
    await ok("create", "slow", "-t", `0 65536 delay ${join(folder, "b.img")} 0 0 15`);
    await ok(
      "reload",
      "default",
      "-t",
      `0 65536 writeboost 0 dm:slow ${join(folder, "c.img")} 2 segment_size_order 5 2 nr_max_batched_writeback 1`,
    );
    await ok("resume", "default");
    await ok("export", "add", "", "default");
    const device = await openNbd(uri(), { environment: realEnvironment, reconnect: 0 });
    // Far apart, so that writing back cannot join them.
    for (let at = 0; at < 200; at += 1) await device.write(at * 65_536, Buffer.alloc(4096, at % 256));
    await device.flush();
    const client = await ControlClient.connect(control);
    cleanUp(() => client.close());
    const ending = new AbortController();
    const seen: string[] = [];
    const dropping = client.call(
      "message",
      { name: "default", words: ["drop_caches"] },
      {
        signal: ending.signal,
        progress: ({ done, total, unit }) => {
          seen.push(`${done}/${total} ${unit}`);
          ending.abort();
        },
      },
    );
    await expect(dropping).rejects.toMatchObject({ code: "ECANCELED" });
    expect(seen[0]).toMatch(/^\d+\/\d+ segments$/);
    const whole = await cli("message", "default", "drop_caches", "-C", control);
    expect(whole).toMatchObject({ code: 0, stdout: "" });
    expect(whole.stderr).toMatch(/^drop_caches: \d+ % \(\d+ of \d+ segments\)$/m);
    const [{ segments }] = JSON.parse(await ok("status", "--json", "default")) as [
      { segments: [{ fields: { dirty_blocks: number } }] },
    ];
    expect(segments[0].fields.dirty_blocks).toBe(0);
    await device.close();
    expect(await server.stop()).toBe(0);
    const backing = readFileSync(join(folder, "b.img"));
    for (let at = 0; at < 200; at += 1) expect(backing[at * 65_536]).toBe(at % 256);
  });
});

describe("stack files", () => {
  const reloaded = async ({ control }: Controlled): Promise<readonly string[]> => {
    const client = await ControlClient.connect(control);
    try {
      return (await client.call<{ changes: string[] }>("stack.reload", {})).changes;
    } finally {
      client.close();
    }
  };

  it("are served, and read again on SIGHUP: what can change does, an invalid file changes nothing", async () => {
    const folder = tempFolder();
    file(join(folder, "a.img"));
    file(join(folder, "b.img"), 2 * MIB);
    const yaml = join(folder, "stack.yaml");
    writeFileSync(yaml, "devices:\n  disk: a.img\nexports:\n  disk: disk\n");
    const stack = await controlled(() => ["--log", "info", yaml], folder);
    const { ok, uri, server } = stack;
    expect(server.uri).toBe(uri("disk"));
    const device = await openNbd(uri("disk"), { environment: realEnvironment, reconnect: 0 });
    await device.write(0, Buffer.alloc(512, 1), { fua: true });

    writeFileSync(yaml, "devices:\n  disk: b.img\n  disk: 7\n");
    server.process.kill("SIGHUP");
    await until(() => /nothing has changed.*stack\.yaml:3/.test(server.stderr()), "the refusal");
    expect(await ok("table", "disk")).toContain("a.img");

    writeFileSync(
      yaml,
      "devices:\n  disk: b.img\n  other: { target: linear, device: a.img }\nexports:\n  disk: disk\n  o: { device: other, read-only: true }\n",
    );
    server.process.kill("SIGHUP");
    await until(() => /export .*o.* of other/.test(server.stderr()), "the new export");
    const into = Buffer.alloc(512);
    await device.read(0, into);
    expect(into[0]).toBe(0);
    expect(await readByte(uri("o"))).toBe(1);
    await device.write(MIB - 512, Buffer.alloc(512, 3), { fua: true });
    await device.close();

    writeFileSync(yaml, "devices:\n  disk: gone.img\nexports:\n  disk: disk\n");
    const failed = await reloaded(stack);
    expect(failed.some((line) => /^failed: .*stack\.yaml:2.*device disk reloaded: .*ENOENT/.test(line))).toBe(
      true,
    );
    expect(await ok("ls")).toBe("disk  2 MiB  linear\n");
    writeFileSync(yaml, "devices:\n  disk: b.img\nexports:\n  disk: disk\n");
    // What failed left the old table there, so there is nothing to do now.
    expect(await reloaded(stack)).toEqual([]);
    expect(readFileSync(join(folder, "b.img"))[MIB - 512]).toBe(3);
    expect(await server.stop()).toBe(0);
  });

  it("end a server that cannot open them with the place of the mistake", async () => {
    const folder = tempFolder();
    const yaml = join(folder, "stack.yaml");
    writeFileSync(yaml, "devices:\n  disk: { table: [0 8 linear none.img 0] }\n");
    const result = await dmkit(["serve", "-U", join(folder, "s"), yaml]);
    expect(result.code).toBe(1);
    expect(result.stderr).toMatch(/stack\.yaml:2.*none\.img.*ENOENT/);
    expect((await cli("serve", yaml, "mem:1M")).stderr).toMatch(/goes alone/);
    expect((await cli("serve", yaml, "--create", "1M")).stderr).toMatch(/--create does not go/);
  });

  it("that lack a layer name the command that makes it", async () => {
    const folder = tempFolder();
    const yaml = join(folder, "stack.yaml");
    writeFileSync(
      yaml,
      "devices:\n  disk: mem:1M\n  d: { target: cow, base: disk, layers: [{ bitmap: a.map, data: a.img }, { bitmap: b.map, data: b.img }] }\nexports: { d: d }\n",
    );
    const at = (name: string): string => join(folder, name);
    for (const expected of [
      `dmkit cow create ${at("a.map")} ${at("a.img")} --size 1M`,
      `dmkit cow create ${at("b.map")} ${at("b.img")} --on ${at("a.map")}`,
    ]) {
      const { stderr } = await dmkit(["serve", "-U", at("s"), yaml]);
      expect(stderr).toContain(expected);
      expect((await cli(...expected.split(" ").slice(1))).code).toBe(0);
    }
    const server = await serve([yaml], { cwd: folder });
    await server.stop();
    rmSync(at("b.img"));
    const { stderr } = await dmkit(["serve", "-U", at("s"), yaml]);
    expect(stderr).toMatch(/ENOENT[^]*b\.map, is there/);
  });
});

describe("hostile control clients", () => {
  function raw(path: string): Promise<{
    socket: Socket;
    send: (text: string | Buffer) => void;
    line: () => Promise<string>;
    closed: Promise<void>;
  }> {
    return new Promise((resolve) => {
      const socket = connect({ path });
      let text = "";
      const waiting: ((line: string) => void)[] = [];
      const lines: string[] = [];
      socket.on("data", (chunk: Buffer) => {
        text += chunk.toString();
        const parts = text.split("\n");
        text = parts.pop() ?? "";
        for (const part of parts) {
          const next = waiting.shift();
          if (next === undefined) lines.push(part);
          else next(part);
        }
      });
      socket.on("error", () => {});
      const closed = new Promise<void>((done) => socket.on("close", () => done()));
      cleanUp(() => void socket.destroy());
      socket.on("connect", () =>
        resolve({
          socket,
          send: (data) => void socket.write(data),
          line: () => {
            const ready = lines.shift();
            return ready === undefined ? new Promise((next) => waiting.push(next)) : Promise.resolve(ready);
          },
          closed,
        }),
      );
    });
  }

  const hello = `${JSON.stringify({ jsonrpc: "2.0", id: 0, method: "hello", params: { protocol: 1 } })}\n`;

  interface Answer {
    id: number | null;
    result?: unknown;
    error?: { code: number; message: string; data?: { code: string } };
  }
  const parsed = async (line: Promise<string>): Promise<Answer> => JSON.parse(await line) as Answer;

  it("are told what is wrong, one by one, and the connection stays in step", async () => {
    const { control } = await controlled(() => ["mem:1M"]);
    const { send, line } = await raw(control);
    send(hello);
    expect(await parsed(line())).toMatchObject({ id: 0, result: { protocol: 1 } });
    const cases: [text: string, code: number, id: number | null][] = [
      ["garbage", -32_700, null],
      ["\u0000\ufffd", -32_700, null],
      ["[]", -32_600, null],
      ["7", -32_600, null],
      ['{"jsonrpc":"1.0","id":1,"method":"list"}', -32_600, 1],
      ['{"jsonrpc":"2.0","id":{},"method":"list"}', -32_600, null],
      ['{"jsonrpc":"2.0","id":2,"method":7}', -32_600, 2],
      ['{"jsonrpc":"2.0","id":3,"method":"nonsense"}', -32_601, 3],
      ['{"jsonrpc":"2.0","id":3,"method":"constructor"}', -32_601, 3],
      ['{"jsonrpc":"2.0","id":4,"method":"create","params":[]}', -32_602, 4],
      ['{"jsonrpc":"2.0","id":5,"method":"create","params":{}}', -32_602, 5],
      ['{"jsonrpc":"2.0","id":6,"method":"create","params":{"name":1,"table":"x"}}', -32_602, 6],
      ['{"jsonrpc":"2.0","id":7,"method":"list","params":{"__proto__":1,"x":1}}', -32_602, 7],
      ['{"jsonrpc":"2.0","id":8,"method":"message","params":{"name":"default","words":[1]}}', -32_602, 8],
      ['{"jsonrpc":"2.0","id":9,"method":"status","params":{"name":"x"}}', -32_000, 9],
      [
        '{"jsonrpc":"2.0","id":10,"method":"export.add","params":{"name":"x","device":"default","maxConnections":1.5}}',
        -32_602,
        10,
      ],
      ['{"jsonrpc":"2.0","id":11,"method":"hello","params":{"protocol":1}}', -32_601, 11],
    ];
    for (const [text, code, id] of cases) {
      // Byte by byte is as good as in one piece.
      for (const piece of [text.slice(0, 3), text.slice(3), "\n"]) send(piece);
      expect(await parsed(line()), text).toMatchObject({ id, error: { code } });
    }
    send('{"jsonrpc":"2.0","method":"cancel","params":{"id":"nothing"}}\n');
    send('{"jsonrpc":"2.0","method":"remove","params":{"name":"default"}}\n');
    send('\n\n{"jsonrpc":"2.0","id":12,"method":"list"}\n');
    expect(await parsed(line())).toMatchObject({ id: 12, result: [{ name: "default" }] });
  });

  it("of another version get one clear line", async () => {
    const { control } = await controlled(() => ["mem:1M"]);
    const old = await raw(control);
    old.send('{"jsonrpc":"2.0","id":0,"method":"hello","params":{"protocol":99}}\n');
    const { error } = await parsed(old.line());
    expect(error?.data?.code).toBe("EPROTO");
    expect(error?.message).toMatch(/speaks control protocol 1, not 99/);
    await old.closed;
    const rude = await raw(control);
    rude.send('{"jsonrpc":"2.0","id":0,"method":"list"}\n');
    expect((await parsed(rude.line())).error?.message).toMatch(/hello/);
    await rude.closed;
  });

  it("cannot send a long line, and cost nobody else anything", async () => {
    const { control, ok, uri } = await controlled(() => ["mem:1M"]);
    const long = await raw(control);
    long.send(hello);
    await long.line();
    long.send(Buffer.alloc(1_000_000, "x"));
    expect((await parsed(long.line())).error?.message).toMatch(/longer than/);
    await long.closed;
    const half = await raw(control);
    half.send(hello.slice(0, 20));
    half.socket.end();
    await half.closed;
    for (let count = 0; count < 20; count += 1) {
      const gone = await raw(control);
      gone.send(`${hello}${'{"jsonrpc":"2.0","id":1,"method":"statistics"}\n'.repeat(500)}`);
      gone.socket.destroy();
      await gone.closed;
    }
    expect(await ok("ls")).toMatch(/default/);
    expect(await readByte(uri())).toBe(0);
  });

  it("are at most so many", async () => {
    const { control, ok } = await controlled(() => ["mem:1M"]);
    const all: Awaited<ReturnType<typeof raw>>[] = [];
    for (let count = 0; count < 64; count += 1) {
      const client = await raw(control);
      client.send(hello);
      await client.line();
      all.push(client);
    }
    const late = await raw(control);
    expect((await parsed(late.line())).error?.message).toMatch(/64 control clients already/);
    await late.closed;
    // One that says something first is told, too.
    await expect(ControlClient.connect(control)).rejects.toThrow(/64 control clients already/);
    for (const { socket } of all) socket.destroy();
    await Promise.all(all.map(({ closed }) => closed));
    // It learns of their ends one after the other.
    const isLetIn = (): Promise<boolean> =>
      ControlClient.connect(control).then(
        (client) => {
          client.close();
          return true;
        },
        () => false,
      );
    await until(isLetIn, "room for a client");
    expect(await ok("ls")).toMatch(/default/);
    expect(existsSync(control)).toBe(true);
  });
});

// Assembles lz4-decode.wat; `node wasm/assemble.mjs` after a change to it. A test holds the two together.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import wabt from "wabt";

const source = fileURLToPath(new URL("lz4-decode.wat", import.meta.url));
const target = fileURLToPath(new URL("../src/format/lz4-decode-module.ts", import.meta.url));

/** The module of TypeScript with the bytes of the module of WebAssembly. */
export async function assembled() {
  const library = await wabt();
  const { buffer } = library.parseWat(source, readFileSync(source, "utf8")).toBinary({});
  const lines = Buffer.from(buffer)
    .toString("base64")
    .match(/.{1,96}/g)
    .map((line) => `  "${line}"`);
  return `/** Made by wasm/assemble.mjs of wasm/lz4-decode.wat. */\nexport const lz4DecodeModule: string =\n${lines.join(" +\n")};\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(target, await assembled());

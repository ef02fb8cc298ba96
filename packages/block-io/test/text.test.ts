/** Texts from elsewhere: what a terminal and a shell make of them. */
import { execFileSync } from "node:child_process";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isoTime, printable, printableJson, printableLines, shellQuote } from "../src/index.ts";

const evil = "a\u001b[2Jb\u009b31m\r\u202ecod\u007f\u2028\u200b\ud800";

it("moments that there are not are told as numbers", () => {
  expect(isoTime(0)).toBe("1970-01-01T00:00:00.000Z");
  expect(isoTime(8.64e15)).toBe("+275760-09-13T00:00:00.000Z");
  expect(isoTime(8.64e15 + 1)).toBe("8640000000000001 ms since 1970");
  expect(isoTime(Number.NaN)).toBe("NaN ms since 1970");
});

describe("printable", () => {
  it("leaves letters alone, and lets no command through", () => {
    expect(printable("диск 磁碟 😀 é.img")).toBe("диск 磁碟 😀 é.img");
    expect(printable(evil)).toBe("a\\x1b[2Jb\\x9b31m\\x0d\\u202ecod\\x7f\\u2028\\u200b\\ud800");
    expect(printable("a\n\tb")).toBe("a\\n\\tb");
    expect(printable("\u{e0041}")).toBe("\\u{e0041}");
    expect(printableLines("a\n\tb\u001b")).toBe("a\n\tb\\x1b");
  });

  it("keeps the meaning of JSON", () => {
    for (const value of [evil, { [evil]: ["\u{e0041}", "😀", 1, null] }, "a\nb"]) {
      for (const indent of [undefined, 2]) {
        const text = printableJson(value, indent);
        expect(JSON.parse(text)).toEqual(value);
        expect(printableLines(text)).toBe(text);
      }
    }
  });
});

describe("shellQuote", () => {
  it("leaves plain words as they are", () => {
    for (const word of ["disk.img", "/a/b-c", "dm:x", "nbd://h/e", "--", ""]) {
      expect(shellQuote(word)).toBe(word === "" || word === "--" ? `'${word}'` : word);
    }
  });

  it("is what a shell reads back as the same word, and safe to show", () => {
    const words = [
      "it's",
      "a b",
      "$(reboot)",
      "`x`",
      "a;b",
      "\\",
      "*",
      "~",
      "-x",
      "A=b",
      "диск",
      evil.slice(0, -1),
      "%s\\n",
    ];
    const random = fc
      .sample(fc.string({ unit: "binary", minLength: 1, maxLength: 12 }), {
        numRuns: 12,
        seed: Number(process.env["DMKIT_SEED"] ?? 0) || 7,
      })
      .filter((word) => !word.includes("\0") && !word.endsWith("\n"));
    const all = [...words, ...random];
    const script = `printf '%s\\0' ${all.map(shellQuote).join(" ")}`;
    expect(printable(script)).toBe(script);
    const read = execFileSync("/bin/sh", ["-c", script]).toString("utf8").split("\0").slice(0, -1);
    expect(read).toEqual(all);
  });
});

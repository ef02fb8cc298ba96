/**
 * A small font for pictures: printable ASCII, five columns by seven rows. Each character is five numbers, one a
 * column from the left; bit 0 is the top row.
 */

const COLUMNS = 5;
/** Pixels from the left edge of one character to that of the next. */
export const ADVANCE: number = COLUMNS + 1;
/** Pixels, with descenders in the last row. */
export const FONT_HEIGHT = 8;

const FIRST = 32;

// From the space to the tilde, in the order of ASCII; two hexadecimal digits a column.
const glyphs =
  "0000000000" + // space
  "00005f0000" + // !
  "0007000700" + // "
  "147f147f14" + // #
  "242a7f2a12" + // $
  "2313086462" + // %
  "3649552250" + // &
  "0000070000" + // '
  "001c224100" + // (
  "0041221c00" + // )
  "2a1c7f1c2a" + // *
  "08083e0808" + // +
  "0080700000" + // ,
  "0808080808" + // -
  "0000606000" + // .
  "2010080402" + // /
  "3e5149453e" + // 0
  "00427f4000" + // 1
  "7249494946" + // 2
  "2141494d33" + // 3
  "1814127f10" + // 4
  "2745454539" + // 5
  "3c4a494931" + // 6
  "4121110907" + // 7
  "3649494936" + // 8
  "464949291e" + // 9
  "0000140000" + // :
  "0080740000" + // ;
  "0008142241" + // <
  "1414141414" + // =
  "0041221408" + // >
  "0201590906" + // ?
  "3e415d594e" + // @
  "7c1211127c" + // A
  "7f49494936" + // B
  "3e41414122" + // C
  "7f4141413e" + // D
  "7f49494941" + // E
  "7f09090901" + // F
  "3e41415173" + // G
  "7f0808087f" + // H
  "00417f4100" + // I
  "2040413f01" + // J
  "7f08142241" + // K
  "7f40404040" + // L
  "7f021c027f" + // M
  "7f0408107f" + // N
  "3e4141413e" + // O
  "7f09090906" + // P
  "3e4151215e" + // Q
  "7f09192946" + // R
  "2649494932" + // S
  "03017f0103" + // T
  "3f4040403f" + // U
  "1f2040201f" + // V
  "3f4038403f" + // W
  "6314081463" + // X
  "0304780403" + // Y
  "6159494d43" + // Z
  "007f414141" + // [
  "0204081020" + // backslash
  "004141417f" + // ]
  "0402010204" + // ^
  "4040404040" + // _
  "0003070800" + // `
  "2054547840" + // a
  "7f28444438" + // b
  "3844444428" + // c
  "384444287f" + // d
  "3854545418" + // e
  "00087e0902" + // f
  "18a4a49c78" + // g
  "7f08040478" + // h
  "00447d4000" + // i
  "2040403d00" + // j
  "7f10284400" + // k
  "00417f4000" + // l
  "7c04780478" + // m
  "7c08040478" + // n
  "3844444438" + // o
  "fc18242418" + // p
  "18242418fc" + // q
  "7c08040408" + // r
  "4854545424" + // s
  "04043f4424" + // t
  "3c4040207c" + // u
  "1c2040201c" + // v
  "3c4030403c" + // w
  "4428102844" + // x
  "4c9090907c" + // y
  "4464544c44" + // z
  "0008364100" + // {
  "0000770000" + // |
  "0041360800" + // }
  "0201020402"; // ~

const columns = Buffer.from(glyphs, "hex");
const UNKNOWN = "?".charCodeAt(0);

// What our own texts use beyond ASCII.
const replaced: Readonly<Record<string, string>> = { "…": "...", "–": "-", "×": "x", µ: "u" };

/** Text as it can be drawn. */
export function drawable(text: string): string {
  return text.replaceAll(/[^ -~]/gu, (character) => replaced[character] ?? "?");
}

/** Pixels. */
export function textWidth(text: string, scale: number): number {
  return drawable(text).length * ADVANCE * scale;
}

/** Calls `dot` for each dot of a text, in units of the font. */
export function eachDot(text: string, dot: (x: number, y: number) => void): void {
  for (const [index, character] of drawable(text).split("").entries()) {
    const code = character.charCodeAt(0);
    const at = (code >= FIRST && code < 127 ? code - FIRST : UNKNOWN - FIRST) * COLUMNS;
    for (let column = 0; column < COLUMNS; column += 1) {
      const bits = columns[at + column] ?? 0;
      for (let row = 0; row < FONT_HEIGHT; row += 1) {
        if (((bits >> row) & 1) === 1) dot(index * ADVANCE + column, row);
      }
    }
  }
}
